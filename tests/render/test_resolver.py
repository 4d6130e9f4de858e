"""The resolver's configuration as its operator gets it."""


def test_upstreams_become_one_forward_zone(render):
    text = render(
        "resolver", "etc/unbound/unbound.conf.d/civicrm.conf", resolver_upstreams=["192.0.2.53", "2001:db8::53"]
    )
    assert text.count('name: "."') == 1
    assert "forward-addr: 192.0.2.53\n" in text
    assert "forward-addr: 2001:db8::53\n" in text


def test_without_upstreams_the_root_servers_are_asked(render):
    assert "forward-zone" not in render("resolver", "etc/unbound/unbound.conf.d/civicrm.conf")


def test_dnssec_is_validated_unless_switched_off(render):
    template = "etc/unbound/unbound.conf.d/civicrm.conf"
    assert "module-config" not in render("resolver", template)
    assert 'module-config: "iterator"' in render("resolver", template, resolver_dnssec_enabled=False)


def test_unbound_comes_back_as_often_as_it_is_killed(render):
    """No other program resolves names here; systemd's default gives up after five times in ten seconds."""
    unit = render("resolver", "etc/systemd/system/unbound.service.d/civicrm.conf")
    assert "StartLimitIntervalSec=0\n" in unit
    assert "Restart=always\n" in unit
