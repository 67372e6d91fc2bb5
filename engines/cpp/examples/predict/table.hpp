// A plain table laid out as hemf-export lays out its own, so that both print the same bytes.
#pragma once

#include <string>
#include <vector>

namespace predict {

struct Column {
    std::string header;
    bool words = true;  // folds, and is aligned to the left; numbers to the right
    int least = 0;      // columns that its text is not folded below
};

// Columns of a terminal that a text takes.
int width_of(const std::string& text);

// A name as it can be shown: line breaks, and bytes that are no text, as escapes.
std::string printable(const std::string& path);

// A message as it can be shown. Only its own line breaks, which are followed by two blanks, stay.
std::string printable_lines(const std::string& text);

// The text in lines of at most `width`, folded between words where it can be.
std::vector<std::string> wrapped(const std::string& text, int width);

// Lines, each with its line feed. Without headers where none of the columns has one.
std::string table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows, int width);

}  // namespace predict
