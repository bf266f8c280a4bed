// The three output formats of one pair of tables.
#include "runtime/bench/table.h"

#include <limits>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace intermix {
namespace {

std::vector<Table> Tables() {
  const double empty = std::numeric_limits<double>::quiet_NaN();
  return {{.title = "kernels",
           .columns = {"op", "us"},
           .rows = {{"norm, \"fast\"", 0.123456}, {"add", empty}}},
          {.title = "limits", .columns = {"unit"}, .rows = {{"GB/s"}}}};
}

TEST(TableTest, MarkdownAlignsItsColumns) {
  EXPECT_EQ(Format(Tables(), TableFormat::kMarkdown),
            "| op           | us    |\n"
            "| ------------ | ----- |\n"
            "| norm, \"fast\" | 0.123 |\n"
            "| add          |       |\n"
            "\n"
            "| unit |\n"
            "| ---- |\n"
            "| GB/s |\n");
}

TEST(TableTest, MarkdownShowsFourDigitsOrTheWholeNumber) {
  const std::vector<Table> tables = {
      {.title = "t", .columns = {"x"}, .rows = {{123456.7}, {12.345678}, {0.0}, {-3.14159}}}};
  EXPECT_EQ(Format(tables, TableFormat::kMarkdown),
            "| x      |\n"
            "| ------ |\n"
            "| 123457 |\n"
            "|  12.35 |\n"
            "|  0.000 |\n"
            "| -3.142 |\n");
}

TEST(TableTest, CsvQuotesAndNamesTheTable) {
  EXPECT_EQ(Format(Tables(), TableFormat::kCsv),
            "table,op,us\n"
            "kernels,\"norm, \"\"fast\"\"\",0.123456\n"
            "kernels,add,\n"
            "\n"
            "table,unit\n"
            "limits,GB/s\n");
}

TEST(TableTest, JsonIsAnObjectOfTables) {
  const nlohmann::json json = nlohmann::json::parse(Format(Tables(), TableFormat::kJson));
  ASSERT_EQ(json.at("kernels").size(), 2u);
  EXPECT_EQ(json["kernels"][0]["op"], "norm, \"fast\"");
  EXPECT_DOUBLE_EQ(json["kernels"][0]["us"], 0.123456);
  EXPECT_TRUE(json["kernels"][1]["us"].is_null());
  EXPECT_EQ(json["limits"][0]["unit"], "GB/s");
}

TEST(TableTest, FormatsHaveNames) {
  EXPECT_EQ(*ParseTableFormat("csv"), TableFormat::kCsv);
  EXPECT_EQ(*ParseTableFormat("md"), TableFormat::kMarkdown);
  EXPECT_EQ(*ParseTableFormat("json"), TableFormat::kJson);
  EXPECT_EQ(ParseTableFormat("xml").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace intermix
