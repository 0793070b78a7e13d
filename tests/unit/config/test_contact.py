"""Who was out of touch with Redis judges nobody."""

import time

from toolfleet.config.contact import Contact


def until(contact: Contact, steady: bool, *, beating: bool) -> None:
    """Wait until a process that beats, or does not, is steady or is not."""
    while contact.steady is not steady:
        if beating:
            contact.note()
        time.sleep(0.001)


def test_a_newcomer_is_not_steady_before_a_lease_has_passed() -> None:
    contact = Contact(heartbeat=0.01, lease_ttl=0.2)
    assert not contact.steady
    began = time.monotonic()
    contact.note()
    assert not contact.steady or time.monotonic() - began > 0.2
    until(contact, True, beating=True)
    assert time.monotonic() - began > 0.2


def test_who_hears_nothing_is_not_steady_and_begins_anew() -> None:
    contact = Contact(heartbeat=0.01, lease_ttl=0.2)
    until(contact, True, beating=True)
    until(contact, False, beating=False)
    back = time.monotonic()
    until(contact, True, beating=True)
    assert time.monotonic() - back > 0.2


def test_a_lease_of_few_heartbeats_can_be_steady() -> None:
    contact = Contact(heartbeat=0.2, lease_ttl=0.2)
    contact.note()
    until(contact, True, beating=False)
