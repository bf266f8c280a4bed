#include "runtime/rpc/listen_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

absl::StatusOr<int> ParsePort(const std::string& text, const std::string& whole) {
  int port = 0;
  const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || !absl::SimpleAtoi(text, &port) || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", whole, "' has port '", text, "'; a port is a number from 0 to 65535"));
  }
  return port;
}

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const ListenAddress& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot find host '", address.host, "': ", gai_strerror(error)));
  }
  return AddressList(found, &freeaddrinfo);
}

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  return address.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

// 0, or errno of the call that failed.
int TryBind(const addrinfo& info) {
  const int fd = socket(info.ai_family, info.ai_socktype | SOCK_CLOEXEC, info.ai_protocol);
  if (fd < 0) return errno;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));  // connections in TIME_WAIT are fine
  if (info.ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  int error = 0;
  if (bind(fd, info.ai_addr, info.ai_addrlen) != 0 || listen(fd, 1) != 0) error = errno;
  close(fd);
  return error;
}

}  // namespace

absl::StatusOr<ListenAddress> ListenAddress::Parse(const std::string& text) {
  ListenAddress address;
  std::string host = text;
  std::optional<std::string> port;
  if (!text.empty() && text[0] == '[') {
    const size_t end = text.find(']');
    const std::string rest = end == std::string::npos ? "" : text.substr(end + 1);
    if (end == std::string::npos || (!rest.empty() && rest[0] != ':')) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "' is no address; write [IPV6]:PORT"));
    }
    host = text.substr(1, end - 1);
    if (!rest.empty()) port = rest.substr(1);
  } else if (const size_t colon = text.find(':'); colon != std::string::npos) {
    if (text.find(':', colon + 1) == std::string::npos) {  // more than one: a bare IPv6 address
      host = text.substr(0, colon);
      port = text.substr(colon + 1);
    }
  }
  if (!host.empty()) address.host = host;
  if (port.has_value()) {
    const absl::StatusOr<int> number = ParsePort(*port, text);
    if (!number.ok()) return number.status();
    address.port = *number;
    address.port_given = true;
  }
  return address;
}

bool ListenAddress::loopback() const {
  const absl::StatusOr<AddressList> list = Resolve(*this);
  if (!list.ok()) return false;
  for (const addrinfo* info = list->get(); info != nullptr; info = info->ai_next) {
    if (!IsLoopback(*info->ai_addr)) return false;
  }
  return true;
}

std::string ListenAddress::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::Status TryListen(const ListenAddress& address) {
  const absl::StatusOr<AddressList> list = Resolve(address);
  if (!list.ok()) return list.status();
  int error = 0;
  for (const addrinfo* info = list->get(); info != nullptr; info = info->ai_next) {
    error = TryBind(*info);
    if (error == 0) return absl::OkStatus();
    if (error == EADDRINUSE) break;
  }
  const std::string where = address.ToString();
  if (error == EADDRINUSE) {
    return absl::AlreadyExistsError(
        absl::StrCat("something listens on ", where, " already; choose another port"));
  }
  if (error == EACCES) {
    return absl::PermissionDeniedError(
        absl::StrCat("may not listen on ", where, "; choose a port above 1023"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot listen on ", where, ": ", std::strerror(error)));
}

}  // namespace intermix
