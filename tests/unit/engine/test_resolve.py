"""Host names become addresses; a name that does not resolve is an empty answer, not an error."""

from gpuxds.engine.resolve import lookup


async def test_localhost_resolves_to_loopback() -> None:
    answers = await lookup(["localhost", "localhost"])
    assert list(answers) == ["localhost"]
    assert set(answers["localhost"]) & {"127.0.0.1", "::1"}


async def test_a_name_that_does_not_exist_has_no_address() -> None:
    assert await lookup(["gpu-server.invalid"]) == {"gpu-server.invalid": ()}
