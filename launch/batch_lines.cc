#include "launch/batch_lines.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

namespace intermix {
namespace {

using Json = nlohmann::ordered_json;

void Rename(Json& object, const char* from, const char* to) {
  const auto found = object.find(from);
  if (found == object.end() || object.contains(to)) return;
  object[to] = std::move(*found);
  object.erase(from);
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Json ChoiceJson(const std::string& text, const v1::Completion& completion) {
  Json json = {{"text", text}};
  const bool stopped = completion.finish_reason() == v1::FINISH_REASON_STOP;
  json["finish_reason"] = stopped ? "stop" : "length";
  if (completion.has_matched_stop_text()) {
    json["matched_stop"] = completion.matched_stop_text();
  } else if (completion.has_matched_stop_token_id()) {
    json["matched_stop"] = completion.matched_stop_token_id();
  }
  json["seed"] = completion.seed();
  return json;
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> ParseBatchLine(const std::string& line,
                                                   const RequestOptions& defaults) {
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_string()) json = Json{{"text", std::move(json)}};
  if (!json.is_object()) {
    return absl::InvalidArgumentError("the line is neither a JSON string nor a JSON object");
  }
  Rename(json, "prompt", "text");
  Rename(json, "id", "request_id");
  v1::GenerateRequest given;
  const auto parsed = google::protobuf::util::JsonStringToMessage(Dump(json), &given);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("the line is not a GenerateRequest: ",
                                                   std::string(parsed.message().ToString())));
  }
  RequestOptions request = defaults;
  request.request.MergeFrom(given);
  request.chat = defaults.chat && request.request.has_text();
  if (absl::Status s = FinishRequest(request); !s.ok()) return s;
  return std::move(request.request);
}

void BatchAnswer::Take(const v1::GenerateResponse& response) {
  if (response.has_delta()) {
    choices_[response.delta().index()].text += response.delta().text();
  } else {
    choices_[response.completion().index()].completion = response.completion();
  }
}

std::string BatchAnswer::Line(int64_t index, const v1::GenerateRequest& request,
                              const grpc::Status& status) const {
  Json line = {{"index", index}};
  if (!request.request_id().empty()) line["id"] = request.request_id();
  if (!status.ok()) {
    line["error"] = {{"code", CodeName(status.error_code())}, {"message", status.error_message()}};
    return Dump(line);
  }
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  Json choices = Json::array();
  for (const auto& [number, choice] : choices_) {
    choices.push_back(ChoiceJson(choice.text, choice.completion));
    prompt_tokens = choice.completion.usage().prompt_tokens();
    completion_tokens += choice.completion.usage().completion_tokens();
  }
  if (choices.size() == 1) {
    line.update(choices[0]);
  } else {
    line["choices"] = std::move(choices);
  }
  line["usage"] = {{"prompt_tokens", prompt_tokens}, {"completion_tokens", completion_tokens}};
  return Dump(line);
}

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace intermix
