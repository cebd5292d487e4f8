"""Nobody ever meets a certificate that he does not trust, whatever happens in which order."""

from __future__ import annotations

import ssl

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.webhook import certificates
from egress_gateway.webhook.certificates import SETTLE, Generation, serving

DAY = 86400.0
VALIDITY = 90 * DAY
NOW = 1_800_000_000.0


def plan(
    generations: list[Generation], *, now: float, validity: float
) -> tuple[list[Generation], bool]:
    return certificates.plan(generations, names=["a"], now=now, validity=validity)


def generation(made: float, validity: float = VALIDITY) -> Generation:
    name = str(made).encode()
    return Generation(
        made=made,
        ends=made + validity,
        names=("a",),
        certificate=name,
        key=b"",
        authority=name + b"\n",
    )


def test_first_one_is_made_and_served_at_once() -> None:
    assert plan([], now=NOW, validity=VALIDITY) == ([], True)
    first = generation(NOW)
    assert plan([first], now=NOW, validity=VALIDITY) == ([first], False)
    assert serving([first], now=NOW) is first
    assert serving([], now=NOW) is None


def test_next_one_is_trusted_first_and_served_later() -> None:
    old = generation(NOW - 60 * DAY)
    assert plan([old], now=NOW - 1, validity=VALIDITY)[1] is False
    assert plan([old], now=NOW, validity=VALIDITY)[1] is True
    new = generation(NOW)
    for later, served, kept in (
        (0, old, [old, new]),
        (SETTLE - 1, old, [old, new]),
        (SETTLE, new, [old, new]),
        (2 * SETTLE - 1, new, [old, new]),
        (2 * SETTLE, new, [new]),
    ):
        assert plan([new, old], now=NOW + later, validity=VALIDITY) == (kept, False)
        assert serving(kept, now=NOW + later) is served


def test_after_a_long_sleep_what_has_ended_is_not_served() -> None:
    assert plan([generation(NOW - VALIDITY)], now=NOW, validity=VALIDITY) == ([], True)
    assert serving([generation(NOW - VALIDITY), generation(NOW)], now=NOW + SETTLE) == (
        generation(NOW)
    )


def test_another_validity_is_reached_in_one_step() -> None:
    short = generation(NOW - DAY, validity=3 * DAY)
    assert plan([short], now=NOW, validity=VALIDITY)[1] is True
    assert plan([short, generation(NOW)], now=NOW + 60, validity=VALIDITY)[1] is False
    assert plan([generation(NOW - 2 * DAY)], now=NOW, validity=3 * DAY)[1] is True


def test_one_for_another_host_is_of_no_use() -> None:
    other = certificates.plan([generation(NOW)], names=["a", "b"], now=NOW, validity=VALIDITY)
    assert other == ([], True)
    made = certificates.make(["a", "192.0.2.1"], now=NOW, validity=VALIDITY)
    assert certificates.decode(certificates.encode(made)) == [made]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1, 40 * DAY), min_size=1, max_size=60), st.data())
def test_at_any_time_what_is_served_has_been_trusted_long_enough(
    pauses: list[float], data: st.DataObject
) -> None:
    """Two replicas look when they like, and one may act on what it saw before the last change."""
    now, secret = NOW, list[Generation]()
    since: dict[float, float] = {}
    for pause in pauses:
        now += pause
        kept, due = plan(secret, now=now, validity=VALIDITY)
        secret = [*kept, generation(now)] if due else kept
        for g in secret:
            since.setdefault(g.made, now)
        assert 1 <= len(secret) <= 2
        served = serving(secret, now=now)
        assert served in secret
        assert served.ends > now
        if len(secret) == 2:
            assert now - since[served.made] >= SETTLE
        # A look of the other replica a moment ago chose one that is still trusted.
        behind = data.draw(st.floats(0, min(pause, SETTLE)))
        before = serving([g for g in secret if g.made <= now - behind], now=now - behind)
        assert before is None or before in secret


def test_what_is_made_is_what_a_client_believes() -> None:
    made = certificates.make(["egress.system.svc"], now=NOW, validity=VALIDITY)
    assert certificates.decode(certificates.encode(made)) == [made]
    certificate = x509.load_pem_x509_certificate(made.certificate)
    authority = x509.load_pem_x509_certificate(made.authority)
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["egress.system.svc"]
    assert certificate.not_valid_before_utc.timestamp() < NOW - 60
    assert made.ends == NOW + VALIDITY
    context = ssl.create_default_context(cadata=certificates.trust([made]).decode())
    assert context.cert_store_stats()["x509_ca"] == 1
    assert b"PRIVATE" not in certificates.trust([made])
    assert "PRIVATE" not in repr(made)


def test_damaged_parts_of_a_secret_are_none() -> None:
    whole = certificates.encode(certificates.make(["a"], now=NOW, validity=VALIDITY))
    for key in whole:
        assert certificates.decode({k: v for k, v in whole.items() if k != key}) == []
        assert certificates.decode(whole | {key: "%"}) == []
        assert certificates.decode(whole | {key: "AAAA"}) == []
    assert len(certificates.decode(whole | {"note": "eA=="})) == 1
