// What a server measures, as Prometheus reads it. Names follow vLLM's, with "intermix:" for
// "vllm:", so that dashboards made for those need no more than another prefix.
#pragma once

#include <vector>

#include "intermix/v1/control.pb.h"
#include "prometheus/metric_family.h"
#include "runtime/engine/engine.h"

namespace intermix {

// A pure function of what the engine and the ranks say now.
std::vector<prometheus::MetricFamily> CollectMetrics(const EngineSnapshot& engine,
                                                     const RequestTimes& times,
                                                     const v1::GetClusterResponse& cluster);

}  // namespace intermix
