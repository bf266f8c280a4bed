#include "launch/rank_facts.h"

#include "nlohmann/json.hpp"

namespace intermix {
namespace {

// Calls visit(name, field) for every field.
template <typename Facts, typename Visit>
void ForEachField(Facts& facts, const Visit& visit) {
  visit("host", facts.host);
  visit("build", facts.build);
  visit("options", facts.options);
  visit("fingerprint", facts.fingerprint);
  visit("problems", facts.problems);
  visit("device", facts.device);
  visit("weight_bytes", facts.weight_bytes);
  visit("kv_bytes", facts.kv_bytes);
  visit("context_bytes", facts.context_bytes);
  visit("free_bytes", facts.free_bytes);
  visit("shm_free_bytes", facts.shm_free_bytes);
  visit("threads", facts.threads);
  visit("pin_threads", facts.pin_threads);
  visit("cpus", facts.cpus);
  visit("host_cpus", facts.host_cpus);
  visit("host_cores", facts.host_cores);
  visit("numa_nodes", facts.numa_nodes);
}

}  // namespace

std::string RankFacts::ToJson() const {
  nlohmann::json json;
  ForEachField(*this, [&](const char* name, const auto& field) { json[name] = field; });
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankFacts RankFacts::FromJson(const std::string& text) {
  RankFacts facts;
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return facts;
  ForEachField(facts, [&](const char* name, auto& field) {
    using Field = std::decay_t<decltype(field)>;
    try {
      if (json.contains(name)) field = json[name].get<Field>();
    } catch (const nlohmann::json::exception&) {  // another type
    }
  });
  return facts;
}

}  // namespace intermix
