// Table: rows of results, as people and programs read them: Markdown, CSV or JSON.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace intermix {

enum class TableFormat { kMarkdown, kCsv, kJson };

// "md", "csv" or "json".
absl::StatusOr<TableFormat> ParseTableFormat(const std::string& name);

// A text, or a number, which Markdown shows with four significant digits; NaN is an empty cell.
using Cell = std::variant<std::string, double>;

struct Table {
  std::string title;                 // one word: the key of the table in JSON
  std::vector<std::string> columns;  // with units: "GB/s"
  std::vector<std::vector<Cell>> rows;
};

// JSON is one object of arrays of objects; CSV and Markdown separate tables by an empty line, and
// CSV names the table in its first column.
std::string Format(const std::vector<Table>& tables, TableFormat format);

}  // namespace intermix
