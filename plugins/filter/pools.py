"""Size PHP-FPM's pools from memory."""

from __future__ import annotations

from typing import Any

Pool = dict[str, Any]

# More workers of one pool than this wait for processors, databases and each other.
MOST_CHILDREN = 40


def sized_pools(pools: list[Pool], budget_mb: int, opcache_mb: int) -> list[Pool]:
    """Return the pools with max_children filled in where it is 0 or missing: an equal share of what the others leave.

    budget_mb: for all pools and an OPcache of opcache_mb of each process manager. A pool gets at least one worker;
    whether all fit is for pool_memory_problem to say.
    """
    open_pools = [p for p in pools if not p.get("max_children")]
    left = budget_mb - _taken(pools, opcache_mb)
    share = left // max(1, sum(p["memory_limit_mb"] for p in open_pools))
    return [p | {"max_children": p.get("max_children") or min(max(1, share), MOST_CHILDREN)} for p in pools]


def pool_memory_problem(pools: list[Pool], budget_mb: int, opcache_mb: int) -> str:
    """Return why sized pools do not fit into the memory, in one line with the way out, or nothing."""
    taken = _taken(pools, opcache_mb)
    if taken <= budget_mb:
        return ""
    largest = max(pools, key=lambda p: p["max_children"] * p["memory_limit_mb"])
    return (
        f"the pools may take {taken} MB (max_children x memory_limit_mb of each, and OPcache), the budget is "
        f"{budget_mb} MB: give {largest['name']} fewer than {largest['max_children']} max_children, or raise "
        "php_fpm_memory_budget_mb"
    )


def _taken(pools: list[Pool], opcache_mb: int) -> int:
    masters = {(p["php_version"], p.get("own_master") and p["name"]) for p in pools}
    pools_mb: int = sum(p.get("max_children", 0) * p["memory_limit_mb"] for p in pools)
    return pools_mb + len(masters) * opcache_mb


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"sized_pools": sized_pools, "pool_memory_problem": pool_memory_problem}
