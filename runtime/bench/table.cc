#include "runtime/bench/table.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/check.h"
#include "nlohmann/json.hpp"

namespace intermix {
namespace {

std::string NumberText(double value, int digits) {
  if (std::isnan(value)) return "";
  const double magnitude = std::abs(value);
  const int before = magnitude < 1.0 ? 1 : static_cast<int>(std::log10(magnitude)) + 1;
  return absl::StrFormat("%.*f", std::max(0, digits - before), value);
}

std::string Text(const Cell& cell, int digits) {
  if (const auto* text = std::get_if<std::string>(&cell)) return *text;
  return NumberText(std::get<double>(cell), digits);
}

std::string MarkdownOf(const Table& table) {
  std::vector<size_t> widths;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    size_t width = table.columns[c].size();
    for (const std::vector<Cell>& row : table.rows) {
      width = std::max(width, Text(row[c], 4).size());
    }
    widths.push_back(width);
  }
  const auto line = [&](const auto& text_of, const std::vector<Cell>* row) {
    std::string out = "|";
    for (size_t c = 0; c < widths.size(); ++c) {
      const bool number = row != nullptr && std::holds_alternative<double>((*row)[c]);
      const std::string text = text_of(c);
      const std::string pad(widths[c] - text.size(), ' ');
      absl::StrAppend(&out, " ", number ? pad + text : text + pad, " |");
    }
    return out + "\n";
  };
  std::string out = line([&](size_t c) { return table.columns[c]; }, nullptr);
  absl::StrAppend(&out, line([&](size_t c) { return std::string(widths[c], '-'); }, nullptr));
  for (const std::vector<Cell>& row : table.rows) {
    absl::StrAppend(&out, line([&](size_t c) { return Text(row[c], 4); }, &row));
  }
  return out;
}

// RFC 4180.
std::string Quoted(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out.append(c == '"' ? 2 : 1, c);
  return out + "\"";
}

std::string CsvOf(const Table& table) {
  std::string out = "table";
  for (const std::string& column : table.columns) absl::StrAppend(&out, ",", Quoted(column));
  out += "\n";
  for (const std::vector<Cell>& row : table.rows) {
    out += table.title;
    for (const Cell& cell : row) absl::StrAppend(&out, ",", Quoted(Text(cell, 7)));
    out += "\n";
  }
  return out;
}

nlohmann::ordered_json JsonOf(const Table& table) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const std::vector<Cell>& row : table.rows) {
    nlohmann::ordered_json object;
    for (size_t c = 0; c < row.size(); ++c) {
      std::visit([&](const auto& value) { object[table.columns[c]] = value; }, row[c]);
    }
    rows.push_back(std::move(object));
  }
  return rows;
}

}  // namespace

absl::StatusOr<TableFormat> ParseTableFormat(const std::string& name) {
  if (name == "md") return TableFormat::kMarkdown;
  if (name == "csv") return TableFormat::kCsv;
  if (name == "json") return TableFormat::kJson;
  return absl::InvalidArgumentError(
      absl::StrCat("there is no output format \"", name, "\"; use json, csv or md"));
}

std::string Format(const std::vector<Table>& tables, TableFormat format) {
  for (const Table& table : tables) {
    for (const std::vector<Cell>& row : table.rows) CHECK_EQ(row.size(), table.columns.size());
  }
  if (format == TableFormat::kJson) {
    nlohmann::ordered_json all;
    for (const Table& table : tables) all[table.title] = JsonOf(table);
    return all.dump(2) + "\n";
  }
  std::string out;
  for (const Table& table : tables) {
    if (!out.empty()) out += "\n";
    out += format == TableFormat::kCsv ? CsvOf(table) : MarkdownOf(table);
  }
  return out;
}

}  // namespace intermix
