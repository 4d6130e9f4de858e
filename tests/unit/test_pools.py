"""PHP-FPM's workers come from memory, and all of them busy at once must fit into it."""

from loading import load

pools = load("plugins/filter/pools.py")

CRM = {"name": "crm", "php_version": "8.4", "memory_limit_mb": 256}
TEST = CRM | {"name": "test-crm"}


def test_pools_share_what_the_others_and_opcache_leave():
    sized = pools.sized_pools([CRM, TEST, CRM | {"name": "given", "max_children": 4}], 4096, 256)
    # 4096 - 256 (OPcache) - 1024 (given) = 2816, over 512 for one worker of each of the two.
    assert {p["name"]: p["max_children"] for p in sized} == {"crm": 5, "test-crm": 5, "given": 4}
    assert pools.pool_memory_problem(sized, 4096, 256) == ""


def test_each_php_version_has_an_opcache():
    sized = pools.sized_pools([CRM, TEST | {"php_version": "7.4"}], 4096, 256)
    assert [p["max_children"] for p in sized] == [7, 7]


def test_a_large_host_does_not_get_workers_without_end():
    assert pools.sized_pools([CRM | {"max_children": 0}], 10**6, 256)[0]["max_children"] == pools.MOST_CHILDREN


def test_pools_that_do_not_fit_are_refused_in_one_line_with_the_way_out():
    for asked, budget in (([CRM | {"max_children": 20}, TEST], 4096), ([CRM, TEST], 400)):
        problem = pools.pool_memory_problem(pools.sized_pools(asked, budget, 256), budget, 256)
        assert "give crm fewer than" in problem and f"the budget is {budget} MB" in problem and "\n" not in problem


def test_no_pools_need_nothing():
    assert pools.sized_pools([], 100, 256) == []
    assert pools.pool_memory_problem([], 100, 256) == ""
