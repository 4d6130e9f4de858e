"""The network map: find what is wrong with it, and turn its entries into nftables' words."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from ansible.errors import AnsibleFilterError

Entry = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A name stands between quotes in the ruleset, and nft takes comments of 128 bytes at most.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,'-]{0,63}")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
WORD = re.compile(r"[a-z][a-z0-9-]*")
LOOPBACK = "loopback"
LOOPBACK_NETWORKS: list[Network] = [ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128")]
SERVICE_KEYS = ("tcp", "udp", "source_ports", "protocols", "icmp", "icmpv6")
PORT_KEYS = ("tcp", "udp", "source_ports")


def firewall_map_problems(
    entries: list[Entry],
    sets: dict[str, list[str]],
    services: dict[str, dict[str, list[Any]]],
    admin_sources: list[str],
    ssh_port: int,
    confined_users: list[str],
    confined_networks: list[str],
) -> list[str]:
    """Return one sentence for each thing that is wrong with the map; empty when all is well.

    Each sentence names the entry and says what to do. The arguments are the role's variables of the same names.
    """
    problems = list(_service_problems(services))
    for name, addresses in sets.items():
        problems += [f"firewall_sets.{name}: {text}" for text in _address_problems(addresses, sets={})]
    if not admin_sources:
        problems.append(
            "firewall_admin_sources is empty: nobody could ssh to this host; name at least one address or network"
        )
    problems += [f"firewall_admin_sources: {text}" for text in _address_problems(admin_sources, sets={})]
    problems += [f"firewall_confined_networks: {text}" for text in _address_problems(confined_networks, sets)]
    if not _is_port(ssh_port):
        problems.append(f"firewall_ssh_port: {ssh_port!r} is no port; use a number from 1 to 65535")
    for user in confined_users:
        if not _is_user(user):
            problems.append(f"firewall_confined_users: {user!r} is no user name")
    for name, count in Counter(str(entry.get("name")) for entry in entries).items():
        if count > 1:
            problems.append(f"{name!r} stands {count} times in the map; give each entry a name of its own")
    for entry in entries:
        problems += [f"entry {entry.get('name')!r}: {text}" for text in _entry_problems(entry, sets, services)]
    # What contradicts what can only be said of entries that mean something.
    if problems:
        return problems
    allowed = LOOPBACK_NETWORKS + _networks(confined_networks, sets)
    for entry in entries:
        problems += _confinement_problems(entry, sets, confined_users, allowed)
    admin = {"name": "firewall_admin_sources", "direction": "in", "service": "ssh", "where": admin_sources}
    problems += _contradictions([*entries, admin], sets, services | {"ssh": {"tcp": [ssh_port]}})
    return problems


def firewall_missing_users(entries: list[Entry], confined_users: list[str], known: Iterable[str]) -> list[str]:
    """Return the users that the map names and the host does not have, each once, in the map's order."""
    named = [user for entry in entries for user in entry.get("who") or []] + list(confined_users)
    return [user for user in dict.fromkeys(named) if user not in set(known)]


def firewall_rules(
    entries: list[Entry],
    sets: dict[str, list[str]],
    services: dict[str, dict[str, list[Any]]],
    users: dict[str, int],
    confined_users: list[str],
) -> dict[str, list[dict[str, Any]]]:
    """Return {chain: [{name, why, rules}]} for the chains inbound, outbound, confined and crowds.

    users: name -> uid of those that exist on the host. Others are left out, and so is an entry or a service of which
    nobody is left. rules: texts of nftables without the verdict. What a confined user may do stands in the
    chain confined alone, since its packets never reach outbound. crowds: {name, ports, burst, per_second} of the
    entries with connections_per_network.
    """
    chains: dict[str, list[dict[str, Any]]] = {"inbound": [], "outbound": [], "confined": [], "crowds": []}
    confined = set(confined_users)
    for entry in entries:
        service = services[entry["service"]]
        outward = entry["direction"] == "out"
        places = _places(entry.get("where"), sets, "daddr" if outward else "saddr")
        who = entry.get("who")
        if limit := entry.get("connections_per_network"):
            ports = ", ".join(map(str, service["tcp"]))
            chains["crowds"].append(
                {"name": entry["name"], "ports": ports, "burst": limit, "per_second": max(1, limit // 25)}
            )
        if not outward:
            groups = {"inbound": [""]}
        elif who is None:
            groups = {"outbound": [""], "confined": [""]}
        else:
            groups = {
                "outbound": _owners(sorted({users[u] for u in who if u in users and u not in confined})),
                "confined": _owners(sorted({users[u] for u in who if u in users and u in confined})),
            }
        for chain, owners in groups.items():
            rules = [
                " ".join(part for part in (owner, place, match) if part)
                for owner in owners
                for place in places
                for match in _matches(service, place, outward)
            ]
            if rules:
                why = " ".join(str(entry["why"]).split())
                chains[chain].append({"name": entry["name"], "why": why, "rules": rules})
    return chains


def firewall_places(addresses: list[str], side: str) -> list[str]:
    """Return nftables' matches for addresses and networks, one for each family. side: saddr or daddr."""
    return _places(addresses, {}, side)


def firewall_uids(names: list[str], users: dict[str, int]) -> list[int]:
    """Return the uids of those of the users that exist on the host, in ascending order."""
    return sorted({users[name] for name in names if name in users})


def _service_problems(services: dict[str, Any]) -> Iterator[str]:
    for name, service in services.items():
        where = f"firewall_services.{name}"
        if not isinstance(service, dict) or not any(service.get(key) for key in set(SERVICE_KEYS) - {"source_ports"}):
            yield f"{where}: names no port, protocol or ICMP type; write for example {{tcp: [8443]}}"
            continue
        for key, values in service.items():
            if key not in SERVICE_KEYS:
                yield f"{where}: {key!r} is none of {', '.join(SERVICE_KEYS)}"
            elif not isinstance(values, list):
                yield f"{where}.{key}: {values!r} is no list; write [{values}]"
            elif key in PORT_KEYS:
                yield from (
                    f"{where}.{key}: {port!r} is no port; use a number from 1 to 65535"
                    for port in values
                    if not _is_port(port)
                )
            else:
                yield from (
                    f"{where}.{key}: {word!r} is no name that nft knows"
                    for word in values
                    if not WORD.fullmatch(str(word))
                )


def _entry_problems(entry: Entry, sets: dict[str, list[str]], services: dict[str, Any]) -> Iterator[str]:
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield "use a name of letters, digits, spaces and _ . , ' - (64 at most), beginning with a letter or digit"
    if entry.get("direction") not in ("in", "out"):
        yield f"direction is {entry.get('direction')!r}; use in or out"
    if not str(entry.get("why") or "").strip():
        yield "why is empty; say in one sentence what it is for"
    service = entry.get("service")
    if service not in services:
        yield f"unknown service {service!r}; use one of {', '.join(sorted(services))}, or add it to firewall_services"
    elif "connections_per_network" in entry and (entry.get("direction") != "in" or set(services[service]) != {"tcp"}):
        yield "connections_per_network is for direction in and a service of TCP alone; leave it out"
    elif services[service].get("icmp") and entry.get("direction") == "out" and "who" not in entry:
        yield f"service {service} without who; name the users who may use it"
    limit = entry.get("connections_per_network", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        yield f"connections_per_network is {limit!r}; use a number from 1, or leave it out"
    if "who" in entry:
        if entry.get("direction") == "in":
            yield "who is for direction out; the sender of a packet that comes in has no user here"
        if not isinstance(entry["who"], list) or not entry["who"]:
            yield "who names nobody; name users, or leave it out for packets of any or no user"
        else:
            yield from (f"{user!r} in who is no user name" for user in entry["who"] if not _is_user(user))
    elif entry.get("direction") == "out" and _is_anywhere(entry.get("where"), sets):
        yield "neither who nor where is limited, so everybody could go anywhere; name one of them"
    where = entry.get("where")
    if where is not None and not isinstance(where, list):
        yield f"where is {where!r}; write a list of addresses, networks or @sets"
        return
    if LOOPBACK in (where or []) and (entry.get("direction") != "out" or "who" not in entry):
        yield "where: loopback is for direction out with who; what comes in there is not asked again"
    yield from _address_problems([item for item in where or [] if item != LOOPBACK], sets)


def _address_problems(addresses: Any, sets: dict[str, list[str]]) -> Iterator[str]:
    if not isinstance(addresses, list):
        yield f"{addresses!r} is no list of addresses or networks"
        return
    for item in addresses:
        if not isinstance(item, str):
            yield f"{item!r} is no address; put it between quotes"
        elif item.startswith("@"):
            if item[1:] not in sets:
                yield f"unknown set {item}; use one of {', '.join(sorted(sets)) or 'none'}, or add it to firewall_sets"
        else:
            try:
                ipaddress.ip_network(item)
            except ValueError as error:
                yield _address_problem(item, str(error))


def _address_problem(item: str, error: str) -> str:
    if "has host bits set" in error:
        network = ipaddress.ip_network(item, strict=False)
        return f"{item} has host bits set; write {network}, or the address without a prefix length"
    return f"{item!r} is no address or network; write for example 192.0.2.1 or 192.0.2.0/24"


def _confinement_problems(
    entry: Entry, sets: dict[str, list[str]], confined_users: list[str], allowed: list[Network]
) -> Iterator[str]:
    for user in [u for u in entry.get("who") or [] if u in confined_users]:
        if entry.get("where") is None:
            outside = ["anywhere"]
        else:
            outside = [
                str(n) for n in _networks(entry["where"], sets) if not any(_is_within(n, other) for other in allowed)
            ]
        if outside:
            yield (
                f"entry {entry['name']!r}: {user} is one of firewall_confined_users but may go to "
                f"{', '.join(outside)}; take it out of who, or add the address to firewall_confined_networks"
            )


def _contradictions(entries: list[Entry], sets: dict[str, list[str]], services: dict[str, Any]) -> Iterator[str]:
    """An entry that limits what another opens to the whole world limits nothing: one of them is a mistake."""
    for one, other in itertools.permutations(entries, 2):
        if one["direction"] != other["direction"]:
            continue
        if not _is_anywhere(one.get("where"), sets) or _is_anywhere(other.get("where"), sets):
            continue
        both = None
        if "who" in one and "who" in other:
            both = sorted(set(one["who"]) & set(other["who"]))
        shared = _ports(services[one["service"]]) & _ports(services[other["service"]])
        if shared and both != []:
            ports = ", ".join(f"{protocol} {port}" for protocol, port in sorted(shared))
            yield (
                f"entry {one['name']!r} opens {ports} to anywhere{' for ' + ', '.join(both) if both else ''}, "
                f"but {other['name']!r} limits it; remove one, or give {one['name']!r} a where"
            )


def _ports(service: dict[str, list[Any]]) -> set[tuple[str, Any]]:
    return {(key, value) for key in ("tcp", "udp", "protocols") for value in service.get(key, [])}


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _is_user(value: Any) -> bool:
    return isinstance(value, str) and USER.fullmatch(value) is not None


def _is_anywhere(where: Any, sets: dict[str, list[str]]) -> bool:
    items = itertools.chain.from_iterable(
        sets.get(item[1:], []) if str(item).startswith("@") else [item] for item in where or []
    )
    return where is None or any(str(item).endswith("/0") for item in items)


def _is_within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]


def _networks(where: list[str], sets: dict[str, list[str]]) -> list[Network]:
    """Return what a list of addresses, networks, @sets and loopback stands for; loopback is LOOPBACK_NETWORKS."""
    found: list[Network] = []
    for item in where:
        if item == LOOPBACK:
            found += LOOPBACK_NETWORKS
        elif item.startswith("@"):
            if item[1:] not in sets:
                raise AnsibleFilterError(f"unknown set {item} in the firewall's map")
            found += _networks(sets[item[1:]], {})
        else:
            found.append(ipaddress.ip_network(item))
    return found


def _places(where: list[str] | None, sets: dict[str, list[str]], side: str) -> list[str]:
    """Return matches for addresses: [""] for anywhere, nothing at all for an empty list."""
    if where is None:
        return [""]
    places = []
    networks = _networks(where, sets)
    # nft refuses a list in which one element contains another.
    v4 = list(ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network)))
    v6 = list(ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network)))
    for version, family, members in ((4, "ip", v4), (6, "ip6", v6)):
        if any(network.prefixlen == 0 for network in members):
            places.append(f"meta nfproto ipv{version}")
        elif members:
            texts = [str(n.network_address) if n.prefixlen == n.max_prefixlen else str(n) for n in members]
            places.append(f"{family} {side} {{ {', '.join(texts)} }}")
    return places


def _owners(uids: list[int]) -> list[str]:
    return [f"meta skuid {{ {', '.join(map(str, uids))} }}"] if uids else []


def _matches(service: dict[str, list[Any]], place: str, outward: bool) -> Iterator[str]:
    """The parts of a rule that name ports, protocols and types; none that cannot go with the family of `place`."""

    def listed(values: list[Any]) -> str:
        return "{ " + ", ".join(map(str, values)) + " }"

    # Of what comes in, a device that translates addresses may have changed the source port.
    source = service.get("source_ports") if outward else None
    for protocol in ("tcp", "udp"):
        if service.get(protocol):
            sport = f"{protocol} sport {listed(source)} " if source else ""
            yield f"{sport}{protocol} dport {listed(service[protocol])}"
    if service.get("protocols"):
        yield f"meta l4proto {listed(service['protocols'])}"
    if service.get("icmp") and not place.startswith(("ip6 ", "meta nfproto ipv6")):
        yield f"icmp type {listed(service['icmp'])}"
    if service.get("icmpv6") and not place.startswith(("ip ", "meta nfproto ipv4")):
        yield f"icmpv6 type {listed(service['icmpv6'])}"


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "firewall_map_problems": firewall_map_problems,
            "firewall_missing_users": firewall_missing_users,
            "firewall_rules": firewall_rules,
            "firewall_places": firewall_places,
            "firewall_uids": firewall_uids,
        }
