"""The internal host was destroyed and made anew: its data and its work are back."""

import pytest
from newsletters import contact, ledger, newsletter, run_job


def test_it_really_is_another_host(crm_int):
    """Without this the scenario would prove nothing: the old host's journal reaches back to the first converge."""
    first = crm_int.check_output("journalctl -o short-unix --no-pager | sed -n 2p").split()[0]
    created = crm_int.check_output("stat -c %Y /etc/ssh/ssh_host_ed25519_key")
    assert float(first) < float(created) + 60
    assert crm_int.run("journalctl --no-pager -g 'kept over the rebuild'").rc != 0


@pytest.mark.parametrize("address", ["nobody@refusing.test", "rebuild@accepting.test"])
def test_the_contact_on_hold_is_still_on_hold(crm_int, address):
    """One bounced before, one was put on hold by hand: writing to them again would cost reputation."""
    assert contact(crm_int, address)["on_hold"] is True


def test_mailboxes_came_back(crm_int):
    """Bounces that nobody had fetched yet are the only copy."""
    text = crm_int.check_output(
        "doveadm fetch -u staging-crm hdr.subject mailbox INBOX subject 'kept over the rebuild'"
    )
    assert "kept over the rebuild" in text


def test_the_sites_work_through_the_front_door(browse, front_door):
    """The tunnel is up again, ext took the new host for the old one, the application answers with its old data."""
    status, answer = browse("https://crm.torproject.test/wp-login.php", user=front_door)
    assert status == 200
    assert 'name="pwd"' in answer


def test_a_newsletter_leaves_and_skips_whom_it_must(crm_int, world, eventually):
    """The rebuilt host sends as the old one did, and to nobody who had bounced there."""
    before = len(ledger(world, recipient="nobody@refusing.test"))
    newsletter(crm_int, "create --group Rebuilt --contact nobody@refusing.test --contact again@accepting.test")
    run_job(crm_int, "process-mailing")
    eventually(lambda: ledger(world, recipient="again@accepting.test"))
    assert len(ledger(world, recipient="nobody@refusing.test")) == before


def test_the_jobs_and_the_nightly_backup_run_again(crm_int):
    """restore.yml stops them; forgetting to start them again would be noticed weeks later."""
    for timer in ("civicrm-crm-process-mailing", "civicrm-crm-fetch-bounces", "civicrm-backup"):
        assert crm_int.service(f"{timer}.timer").is_running
