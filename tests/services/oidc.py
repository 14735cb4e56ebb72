"""An OpenID provider: the certified oidc-provider, run by Node.js, with clients of its own; people log in by name.

`login` is the person at the browser: it follows the redirects, fills in the two forms and comes back with the callback.
"""

import base64
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, Request, build_opener

from tests.services import node
from tests.services.server import Missing, Server

FOLDER = Path(__file__).with_name("oidc_provider")
LOCK = FOLDER / "package-lock.json"
OLDEST_NODE = (20, 19)
COUNTED = "/test/counts"


class Oidc(Server):
    """Clients are `client_id` (confidential, by basic auth), `toolpost-post`, `toolpost-public` and `the-api`.

    The last one only introspects. Nothing outlives the process.
    """

    name = "oidc"
    variable = "TOOLPOST_TEST_OIDC"
    keeps_data = False
    client_id: ClassVar[str] = "toolpost"
    redirect_uri: ClassVar[str] = "https://app.example/oauth/callback"
    audience: ClassVar[str] = "https://api.example/"

    def __init__(self, given: str | None = None, *, outlives: bool = False) -> None:
        super().__init__(given, outlives=outlives)
        given_secret = os.environ.get(f"{self.variable}_SECRET", "") if given else ""
        self.client_secret = given_secret or secrets.token_hex(16)

    @classmethod
    def find(cls) -> Path:
        """The folder that has oidc-provider."""
        cls.runtime()
        folder = node.cached("oidc", LOCK)
        if not folder.joinpath("node_modules", "oidc-provider").exists():
            raise Missing(
                f"oidc-provider is not here: run 'make prepare', or set {cls.variable} to such a server's URL"
            )
        return folder

    @classmethod
    def prepare(cls) -> None:
        program = node.prepared_node(OLDEST_NODE)
        folder = node.cached("oidc", LOCK)
        if not folder.exists():
            print("downloading the tests' OpenID provider, once: some seconds", flush=True)
            node.npm_install(program, FOLDER, folder)
        cls.find()

    @classmethod
    def runtime(cls) -> Path:
        """The Node.js that runs it. Raises Missing."""
        return node.node(OLDEST_NODE, f"run 'make prepare', or set {cls.variable} to a server's URL")

    def command(self, folder: Path) -> list[str]:
        return [str(self.runtime()), str(FOLDER / "serve.mjs"), str(self.find()), str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"CLIENT_SECRET": self.client_secret}

    def variables(self) -> dict[str, str]:
        return super().variables() | {f"{self.variable}_SECRET": self.client_secret}

    def answers(self) -> bool:
        try:
            return bool(self.ask("/.well-known/openid-configuration")["issuer"] == self.url)
        except HTTPException:
            return False

    @property
    def issuer(self) -> str:
        return self.url

    def ask(self, path: str, data: bytes | None = None) -> Any:
        """The JSON at a path."""
        with build_opener().open(Request(f"{self.url}{path}", data), timeout=10) as answer:
            return json.loads(answer.read())

    def set(self, **settings: Any) -> None:
        """Change settings (see serve.mjs); those that are left out are as at the start, and counting begins anew."""
        self.ask("/test/settings", json.dumps(settings).encode())

    def count(self, endpoint: str) -> int:
        """How often an endpoint was asked: "token:refresh_token", "revocation", "userinfo", "discovery" and so on."""
        return int(self.ask(COUNTED).get(endpoint, 0))

    def introspect(self, token: str) -> dict[str, Any]:
        """What the provider says about a token, asked as an API would."""
        request = Request(f"{self.url}/token/introspection", urlencode({"token": token}).encode())
        pair = f"the-api:{self.client_secret}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
        with build_opener().open(request, timeout=10) as answer:
            told: dict[str, Any] = json.loads(answer.read())
        return told

    def login(
        self, auth_url: str, user: str = "alice", grant_scopes: Iterable[str] | None = None, *, deny: bool = False
    ) -> str:
        """Log in as user in a browser of its own and grant these scopes (all that are asked for, if None).

        The callback URL that the browser is sent to at last, which nobody opens.
        """
        return Browser().log_in(auth_url, user, None if grant_scopes is None else set(grant_scopes), deny=deny)


class Browser:
    """Keeps cookies, follows redirects until one leaves the provider, and can fill in the provider's two forms."""

    def __init__(self) -> None:
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()), _NoRedirects())

    def log_in(self, url: str, user: str, grant_scopes: set[str] | None, *, deny: bool) -> str:
        home = urlsplit(url).netloc
        form: list[tuple[str, str]] | None = None
        for _ in range(20):
            status, location, text = self._open(url, form)
            form = None
            if status in (302, 303):
                url = urljoin(url, location)
                if urlsplit(url).netloc != home:
                    return url
                continue
            prompt = re.search(r'data-prompt="(\w+)"', text)
            if prompt is None:
                raise OSError(f"the provider answered {status} at {url}: {text[:2000]}")
            form = [("decision", "no" if deny else "yes")]
            if prompt[1] == "login":
                form.append(("login", user))
            else:
                asked = re.findall(r'name="scope" value="([^"]*)"', text)
                form += [("scope", scope) for scope in asked if grant_scopes is None or scope in grant_scopes]
        raise OSError(f"the login does not end; it is at {url}")

    def _open(self, url: str, form: list[tuple[str, str]] | None) -> tuple[int, str, str]:
        data = None if form is None else urlencode(form).encode()
        try:
            answer = self._opener.open(Request(url, data), timeout=10)
        except HTTPError as raised:
            answer = raised
        with answer:
            return answer.status, answer.headers.get("Location", ""), answer.read().decode()


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the browser does that itself."""


def parameters(url: str) -> Mapping[str, str]:
    """The query of a URL, where each name stands once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}
