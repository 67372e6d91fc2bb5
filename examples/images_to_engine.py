import hemf_export

data = "examples/blood_cells"
recipe = {"epochs": 10, "batch_size": 16, "learning_rate": 1e-3}
run = hemf_export.train(data, "run", model="hemf-tiny", image_size=96, recipe=recipe)
onnx = hemf_export.export_onnx(run, images=data)
half = hemf_export.quantize(onnx, data)
engine = hemf_export.build_engine(half, images=data)
verification = hemf_export.verify([onnx, half], data)
bundle = hemf_export.bundle([half, engine], "run/cells.tar.zst", verification=verification)
print(verification.facts(), hemf_export.self_test(bundle).facts())
