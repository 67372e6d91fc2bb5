"""The bindings of tensorrt-rtx-1.7. Written by tests/typings/generate.py."""

from typing import Any, Protocol

class Builder:
    def __init__(self, *arguments: Any) -> None: ...
    build_serialized_network: Any
    build_serialized_network_to_stream: Any
    def create_builder_config(self, *arguments: Any) -> IBuilderConfig: ...
    def create_network(self, *arguments: Any) -> INetworkDefinition: ...
    def create_optimization_profile(self, *arguments: Any) -> IOptimizationProfile: ...
    error_recorder: Any
    get_plugin_registry: Any
    gpu_allocator: Any
    is_network_supported: Any
    logger: Any
    max_DLA_batch_size: Any
    max_threads: Any
    num_DLA_cores: Any
    reset: Any

class BuilderFlag:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    DEBUG: Any
    DIRECT_IO: Any
    DISABLE_COMPILATION_CACHE: Any
    DISABLE_TIMING_CACHE: Any
    DISTRIBUTIVE_INDEPENDENCE: Any
    EDITABLE_TIMING_CACHE: Any
    ERROR_ON_TIMING_CACHE_MISS: Any
    EXCLUDE_LEAN_RUNTIME: Any
    GPU_FALLBACK: Any
    MONITOR_MEMORY: Any
    REFIT: Any
    REFIT_IDENTICAL: Any
    REFIT_INDIVIDUAL: Any
    REQUIRE_USER_ALLOCATION: Any
    SAFETY_SCOPE: Any
    SPARSE_WEIGHTS: Any
    STRICT_NANS: Any
    STRIP_PLAN: Any
    TF32: Any
    VERSION_COMPATIBLE: Any
    WEIGHT_STREAMING: Any
    name: Any
    value: Any

class ComputeCapability:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    CURRENT: Any
    NONE: Any
    SM120: Any
    SM121: Any
    SM75: Any
    SM80: Any
    SM86: Any
    SM89: Any
    name: Any
    value: Any

class CudaGraphStrategy:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    DISABLED: Any
    WHOLE_GRAPH_CAPTURE: Any
    name: Any
    value: Any

class DynamicShapesKernelSpecializationStrategy:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    EAGER: Any
    LAZY: Any
    NONE: Any
    name: Any
    value: Any

class EngineInspector:
    def __init__(self, *arguments: Any) -> None: ...
    error_recorder: Any
    execution_context: Any
    get_engine_information: Any
    get_layer_information: Any

class EngineValidity:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    INVALID: Any
    SUBOPTIMAL: Any
    VALID: Any
    name: Any
    value: Any

class HardwareCompatibilityLevel:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    AMPERE_PLUS: Any
    NONE: Any
    SAME_COMPUTE_CAPABILITY: Any
    name: Any
    value: Any

class IBuilderConfig:
    def __init__(self, *arguments: Any) -> None: ...
    DLA_core: Any
    add_optimization_profile: Any
    all_build_routes: Any
    avg_timing_iterations: Any
    build_route: Any
    builder_optimization_level: Any
    can_run_on_DLA: Any
    clear_flag: Any
    def create_timing_cache(self, *arguments: Any) -> ITimingCache | None: ...
    default_device_type: Any
    engine_capability: Any
    flags: Any
    get_compute_capability: Any
    get_device_type: Any
    get_flag: Any
    get_memory_pool_limit: Any
    get_preview_feature: Any
    get_tactic_sources: Any
    def get_timing_cache(self, *arguments: Any) -> ITimingCache: ...
    hardware_compatibility_level: Any
    is_device_type_set: Any
    l2_limit_for_tiling: Any
    max_aux_streams: Any
    max_num_tactics: Any
    num_compute_capabilities: Any
    num_optimization_profiles: Any
    plugins_to_serialize: Any
    profile_stream: Any
    profiling_verbosity: Any
    progress_monitor: Any
    reset: Any
    reset_device_type: Any
    runtime_platform: Any
    set_compute_capability: Any
    set_device_type: Any
    set_flag: Any
    set_memory_pool_limit: Any
    set_preview_feature: Any
    set_tactic_sources: Any
    set_timing_cache: Any
    tiling_optimization_level: Any

class ICudaEngine:
    def __init__(self, *arguments: Any) -> None: ...
    def create_engine_inspector(self, *arguments: Any) -> EngineInspector: ...
    def create_execution_context(self, *arguments: Any) -> IExecutionContext | None: ...
    def create_runtime_config(self, *arguments: Any) -> IRuntimeConfig: ...
    create_serialization_config: Any
    create_weights_manager: Any
    device_memory_size_v2: Any
    engine_capability: Any
    error_recorder: Any
    get_aliased_input_tensor: Any
    get_device_memory_size_for_profile_v2: Any
    get_engine_stat: Any
    get_tensor_bytes_per_component: Any
    get_tensor_components_per_element: Any
    get_tensor_dtype: Any
    get_tensor_format: Any
    get_tensor_format_desc: Any
    get_tensor_location: Any
    get_tensor_mode: Any
    get_tensor_name: Any
    get_tensor_profile_shape: Any
    get_tensor_profile_values: Any
    get_tensor_shape: Any
    get_tensor_vectorized_dim: Any
    get_weight_streaming_automatic_budget: Any
    hardware_compatibility_level: Any
    is_debug_tensor: Any
    is_shape_inference_io: Any
    load_weights: Any
    load_weights_async: Any
    name: Any
    num_aux_streams: Any
    num_io_tensors: Any
    num_layers: Any
    num_optimization_profiles: Any
    profiling_verbosity: Any
    refittable: Any
    serialize: Any
    serialize_with_config: Any
    streamable_weights_size: Any
    tactic_sources: Any
    unload_weights: Any
    weight_streaming_budget_v2: Any
    weight_streaming_scratch_memory_size: Any
    weights_loaded: Any

class IExecutionContext:
    def __init__(self, *arguments: Any) -> None: ...
    active_optimization_profile: Any
    all_binding_shapes_specified: Any
    debug_sync: Any
    device_memory: Any
    engine: Any
    enqueue_emits_profile: Any
    error_recorder: Any
    execute_async_v3: Any
    execute_v2: Any
    get_debug_listener: Any
    get_debug_state: Any
    get_input_consumed_event: Any
    get_max_output_size: Any
    get_output_allocator: Any
    get_runtime_config: Any
    get_tensor_address: Any
    get_tensor_shape: Any
    get_tensor_strides: Any
    infer_shapes: Any
    is_stream_capturable: Any
    name: Any
    nvtx_verbosity: Any
    persistent_cache_limit: Any
    profiler: Any
    report_to_profiler: Any
    set_all_tensors_debug_state: Any
    set_aux_streams: Any
    set_communicator: Any
    set_debug_listener: Any
    set_device_memory: Any
    set_input_consumed_event: Any
    set_input_shape: Any
    set_optimization_profile_async: Any
    set_output_allocator: Any
    set_tensor_address: Any
    set_tensor_debug_state: Any
    temporary_allocator: Any
    unfused_tensors_debug_state: Any
    update_device_memory_size_for_shapes: Any

class ILayer:
    def __init__(self, *arguments: Any) -> None: ...
    get_input: Any
    def get_output(self, *arguments: Any) -> ITensor: ...
    get_output_type: Any
    metadata: Any
    name: Any
    num_inputs: Any
    num_outputs: Any
    num_ranks: Any
    set_input: Any
    type: Any

class ILogger:
    def __init__(self, *arguments: Any) -> None: ...
    ERROR: Any
    INFO: Any
    INTERNAL_ERROR: Any
    Severity: Any
    VERBOSE: Any
    WARNING: Any
    log: Any

class INetworkDefinition:
    def __init__(self, *arguments: Any) -> None: ...
    add_activation: Any
    add_assertion: Any
    add_attention: Any
    add_attention_v2: Any
    add_cast: Any
    add_concatenation: Any
    add_constant: Any
    add_convolution_nd: Any
    add_cumulative: Any
    add_deconvolution_nd: Any
    add_dequantize: Any
    add_dist_collective: Any
    add_dynamic_quantize: Any
    add_dynamic_quantize_v2: Any
    add_einsum: Any
    add_elementwise: Any
    add_fill: Any
    add_gather: Any
    add_gather_v2: Any
    add_grid_sample: Any
    add_identity: Any
    add_if_conditional: Any
    add_input: Any
    add_kv_cache_update: Any
    add_loop: Any
    add_lrn: Any
    add_matrix_multiply: Any
    add_moe: Any
    add_nms: Any
    add_non_zero: Any
    add_normalization: Any
    add_normalization_v2: Any
    add_one_hot: Any
    add_padding_nd: Any
    add_parametric_relu: Any
    add_pooling_nd: Any
    add_quantize: Any
    add_ragged_softmax: Any
    add_reduce: Any
    add_resize: Any
    add_reverse_sequence: Any
    add_rotary_embedding: Any
    add_scale: Any
    add_scale_nd: Any
    add_scatter: Any
    add_select: Any
    add_shape: Any
    add_shuffle: Any
    add_slice: Any
    add_softmax: Any
    add_squeeze: Any
    add_topk: Any
    add_unary: Any
    add_unsqueeze: Any
    are_weights_marked_refittable: Any
    builder: Any
    error_recorder: Any
    flags: Any
    get_flag: Any
    def get_input(self, *arguments: Any) -> ITensor: ...
    def get_layer(self, *arguments: Any) -> ILayer: ...
    def get_output(self, *arguments: Any) -> ITensor: ...
    is_debug_tensor: Any
    mark_debug: Any
    mark_output: Any
    mark_output_for_shapes: Any
    mark_unfused_tensors_as_debug_tensors: Any
    mark_weights_refittable: Any
    name: Any
    num_inputs: Any
    num_layers: Any
    num_outputs: Any
    remove_tensor: Any
    set_weights_name: Any
    unmark_debug: Any
    unmark_output: Any
    unmark_output_for_shapes: Any
    unmark_unfused_tensors_as_debug_tensors: Any
    unmark_weights_refittable: Any

class IOptimizationProfile:
    def __init__(self, *arguments: Any) -> None: ...
    extra_memory_target: Any
    get_shape: Any
    get_shape_input: Any
    profile_stream: Any
    set_shape: Any
    set_shape_input: Any

class IProfiler:
    def __init__(self, *arguments: Any) -> None: ...
    report_layer_time: Any

class IProgressMonitor:
    def __init__(self, *arguments: Any) -> None: ...
    phase_finish: Any
    phase_start: Any
    step_complete: Any

class IRuntimeCache:
    def __init__(self, *arguments: Any) -> None: ...
    deserialize: Any
    reset: Any
    serialize: Any

class IRuntimeConfig:
    def __init__(self, *arguments: Any) -> None: ...
    def create_runtime_cache(self, *arguments: Any) -> IRuntimeCache: ...
    cuda_graph_strategy: Any
    dynamic_shapes_kernel_specialization_strategy: Any
    get_execution_context_allocation_strategy: Any
    get_runtime_cache: Any
    set_execution_context_allocation_strategy: Any
    set_runtime_cache: Any

class ITensor:
    def __init__(self, *arguments: Any) -> None: ...
    allowed_formats: Any
    dtype: Any
    get_dimension_name: Any
    is_execution_tensor: Any
    is_network_input: Any
    is_network_output: Any
    is_shape_tensor: Any
    name: Any
    set_dimension_name: Any
    shape: Any

class ITimingCache:
    def __init__(self, *arguments: Any) -> None: ...
    combine: Any
    query: Any
    queryKeys: Any
    reset: Any
    serialize: Any
    update: Any

class LayerInformationFormat:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    JSON: Any
    ONELINE: Any
    name: Any
    value: Any

class Logger:
    def __init__(self, *arguments: Any) -> None: ...
    ERROR: Any
    INFO: Any
    INTERNAL_ERROR: Any
    Severity: Any
    VERBOSE: Any
    WARNING: Any
    log: Any
    min_severity: Any

class MemoryPoolType:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    DLA_GLOBAL_DRAM: Any
    DLA_LOCAL_DRAM: Any
    DLA_MANAGED_SRAM: Any
    TACTIC_DRAM: Any
    TACTIC_SHARED_MEMORY: Any
    WORKSPACE: Any
    name: Any
    value: Any

class NetworkDefinitionCreationFlag:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    STRONGLY_TYPED: Any
    name: Any
    value: Any

class OnnxParser:
    def __init__(self, *arguments: Any) -> None: ...
    clear_errors: Any
    clear_flag: Any
    flags: Any
    def get_error(self, *arguments: Any) -> ParserError: ...
    get_flag: Any
    get_layer_output_tensor: Any
    get_subgraph_nodes: Any
    get_used_vc_plugin_libraries: Any
    is_subgraph_supported: Any
    load_initializer: Any
    load_model_proto: Any
    num_errors: Any
    num_subgraphs: Any
    parse: Any
    parse_from_file: Any
    parse_model_proto: Any
    set_builder_config: Any
    set_flag: Any
    supports_model_v2: Any
    supports_operator: Any

class OnnxParserRefitter:
    def __init__(self, *arguments: Any) -> None: ...
    clear_errors: Any
    get_error: Any
    load_initializer: Any
    load_model_proto: Any
    num_errors: Any
    refit_from_bytes: Any
    refit_from_file: Any
    refit_model_proto: Any

class ParserError:
    def __init__(self, *arguments: Any) -> None: ...
    code: Any
    desc: Any
    file: Any
    func: Any
    line: Any
    local_function_stack: Any
    local_function_stack_size: Any
    node: Any
    node_name: Any
    node_operator: Any

class ProfilingVerbosity:
    def __init__(self, *arguments: Any) -> None: ...
    __members__: dict[str, Any]
    DETAILED: Any
    LAYER_NAMES_ONLY: Any
    NONE: Any
    name: Any
    value: Any

class Refitter:
    def __init__(self, *arguments: Any) -> None: ...
    error_recorder: Any
    get_all: Any
    get_all_weights: Any
    get_missing: Any
    get_missing_weights: Any
    get_named_weights: Any
    get_weights_location: Any
    get_weights_prototype: Any
    logger: Any
    max_threads: Any
    refit_cuda_engine: Any
    refit_cuda_engine_async: Any
    release_refit_resources: Any
    set_named_weights: Any
    set_weights: Any
    unset_named_weights: Any
    weights_validation: Any

class Runtime:
    def __init__(self, *arguments: Any) -> None: ...
    DLA_core: Any
    defer_weights_loading: Any
    def deserialize_cuda_engine(self, *arguments: Any) -> ICudaEngine | None: ...
    dla_workspace_allocation_strategy: Any
    engine_header_size: Any
    engine_host_code_allowed: Any
    error_recorder: Any
    get_engine_validity: Any
    get_plugin_registry: Any
    gpu_allocator: Any
    load_runtime: Any
    logger: Any
    max_threads: Any
    num_DLA_cores: Any
    tempfile_control_flags: Any
    temporary_directory: Any

class Bindings(Protocol):
    __version__: str
    @property
    def Builder(self) -> type[Builder]: ...
    @property
    def BuilderFlag(self) -> type[BuilderFlag]: ...
    @property
    def ComputeCapability(self) -> type[ComputeCapability]: ...
    @property
    def CudaGraphStrategy(self) -> type[CudaGraphStrategy]: ...
    @property
    def DynamicShapesKernelSpecializationStrategy(self) -> type[DynamicShapesKernelSpecializationStrategy]: ...
    @property
    def EngineInspector(self) -> type[EngineInspector]: ...
    @property
    def EngineValidity(self) -> type[EngineValidity]: ...
    @property
    def HardwareCompatibilityLevel(self) -> type[HardwareCompatibilityLevel]: ...
    @property
    def IBuilderConfig(self) -> type[IBuilderConfig]: ...
    @property
    def ICudaEngine(self) -> type[ICudaEngine]: ...
    @property
    def IExecutionContext(self) -> type[IExecutionContext]: ...
    @property
    def ILayer(self) -> type[ILayer]: ...
    @property
    def ILogger(self) -> type[ILogger]: ...
    @property
    def INetworkDefinition(self) -> type[INetworkDefinition]: ...
    @property
    def IOptimizationProfile(self) -> type[IOptimizationProfile]: ...
    @property
    def IProfiler(self) -> type[IProfiler]: ...
    @property
    def IProgressMonitor(self) -> type[IProgressMonitor]: ...
    @property
    def IRuntimeCache(self) -> type[IRuntimeCache]: ...
    @property
    def IRuntimeConfig(self) -> type[IRuntimeConfig]: ...
    @property
    def ITensor(self) -> type[ITensor]: ...
    @property
    def ITimingCache(self) -> type[ITimingCache]: ...
    @property
    def LayerInformationFormat(self) -> type[LayerInformationFormat]: ...
    @property
    def Logger(self) -> type[Logger]: ...
    @property
    def MemoryPoolType(self) -> type[MemoryPoolType]: ...
    @property
    def NetworkDefinitionCreationFlag(self) -> type[NetworkDefinitionCreationFlag]: ...
    @property
    def OnnxParser(self) -> type[OnnxParser]: ...
    @property
    def OnnxParserRefitter(self) -> type[OnnxParserRefitter]: ...
    @property
    def ParserError(self) -> type[ParserError]: ...
    @property
    def ProfilingVerbosity(self) -> type[ProfilingVerbosity]: ...
    @property
    def Refitter(self) -> type[Refitter]: ...
    @property
    def Runtime(self) -> type[Runtime]: ...
