from __future__ import annotations

import pytest

from imagedist.errors import InputError
from imagedist.oci.proxies import environment_proxy, has_proxies, parse_proxy

EVERYTHING = {"http_proxy": "http://h:1", "HTTPS_PROXY": "http://s:2", "all_proxy": "socks5h://a"}


@pytest.mark.parametrize(
    ("environment", "url", "name"),
    [
        (EVERYTHING, "http://r.example/v2/", "http://h:1"),
        (EVERYTHING, "https://r.example/v2/", "http://s:2"),
        ({"ALL_PROXY": "socks5://me:secret@a:9"}, "https://r.example/v2/", "socks5://a:9"),
        ({"all_proxy": "socks5h://a"}, "http://r.example/v2/", "socks5h://a:1080"),
        ({"http_proxy": "h:1"}, "http://r.example/", "http://h:1"),
        ({"http_proxy": "", "HTTP_PROXY": "http://u:1"}, "http://r.example/", "http://u:1"),
        ({}, "http://r.example/", None),
        (EVERYTHING, "http://127.0.0.1:5000/v2/", None),
        (EVERYTHING, "https://localhost/v2/", None),
        (EVERYTHING, "https://[::1]:5000/v2/", None),
    ],
)
def test_proxy_is_chosen_by_the_usual_variables(environment: dict[str, str], url: str, name: str | None) -> None:
    proxy = environment_proxy(url, environment)
    assert (proxy.url if proxy else None) == name
    assert has_proxies(environment) == bool(environment)


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("r.example", "r.example", True),
        ("example", "r.example", True),
        (".example", "r.example", True),
        (".r.example", "r.example", False),
        ("*.example", "r.example", True),
        ("ample", "r.example", False),
        ("R.Example", "r.example", True),
        ("r.example:443", "r.example", True),
        ("r.example:5000", "r.example", False),
        ("r.example:5000", "r.example:5000", True),
        ("a, b r.example", "r.example", True),
        ("*", "r.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3:5000", True),
        ("10.1.2.3:443", "10.1.2.3:5000", False),
        ("fd00::/8", "[fd00::5]:5000", True),
        ("[fd00::5]:5000", "[fd00::5]:5000", True),
        ("nonsense/8,,", "10.1.2.3", False),
        ("", "r.example", False),
    ],
)
def test_exceptions_are_hosts_networks_and_ports(no_proxy: str, host: str, is_direct: bool) -> None:
    environment = {"https_proxy": "http://h:1", "NO_PROXY": no_proxy}
    assert (environment_proxy(f"https://{host}/v2/", environment) is None) == is_direct


@pytest.mark.parametrize("text", ["ftp://h:1", "http://", "http://h:port", "socks5://user:secret@"])
def test_nonsense_is_refused_without_repeating_its_password(text: str) -> None:
    with pytest.raises(InputError, match=r"bad https_proxy: expected a URL such as") as caught:
        environment_proxy("https://r.example/", {"https_proxy": text})
    assert "secret" not in str(caught.value)


def test_who_resolves_names_follows_the_scheme() -> None:
    schemes = {
        each: parse_proxy(f"{each}://h:1", "proxy").resolves for each in ("socks4", "socks4a", "socks5", "socks5h")
    }
    assert schemes == {"socks4": False, "socks4a": True, "socks5": False, "socks5h": True}
