// How a server's status looks on a terminal, or as JSON. Pure functions.
#pragma once

#include <string>

#include "intermix/v1/control.pb.h"

namespace intermix {

// "2 ranks: dp 1 x tp 2, ep 2 x etp 1".
std::string LayoutText(const v1::Layout& layout);

// A few lines about the server, then one row for each rank.
std::string StatusPage(const v1::GetServerInfoResponse& server,
                       const v1::GetClusterResponse& cluster);

// The page for a terminal that shows it again and again: StatusPage with the newest numbers, rates,
// and bars for the KV cache and the experts' loads.
std::string WatchPage(v1::GetServerInfoResponse server, const v1::Stats& stats);

// One line: {"server": GetServerInfoResponse, "cluster": GetClusterResponse}.
std::string StatusJson(const v1::GetServerInfoResponse& server,
                       const v1::GetClusterResponse& cluster);

}  // namespace intermix
