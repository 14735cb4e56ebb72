"""A small API that lets in whom an OpenID provider vouches for: by introspection, or by the signature of a JWT."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tests.services import Oidc


class ProtectedApi:
    """GET or POST /inbox answers {"owner": …} to whoever has a token with the scope read; others get 401 or 403.

    It takes none of those in refuses, with takes=False none at all, and with echoes=True any, answering
    {"authorization": …}.
    """

    def __init__(self, oidc: Oidc) -> None:
        self.oidc = oidc
        self.tokens: list[str] = []
        self.answered = 0
        self.takes, self.echoes = True, False
        self.refuses: set[str] = set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = api.answer(self.headers.get("Authorization", ""))
                data = json.dumps(body).encode()
                api.answered += 1  # before whoever asked can go on
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Bearer realm="inbox", error="invalid_token"')
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Keep the tests' output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.place}/inbox"

    def answer(self, authorization: str) -> tuple[int, dict[str, Any]]:
        token = authorization.removeprefix("Bearer ")
        self.tokens.append(token)
        if self.echoes:
            return 200, {"authorization": authorization}
        claims = self._claims(token) if token and self.takes and token not in self.refuses else None
        if claims is None:
            return 401, {"error": "invalid_token"}
        if "read" not in str(claims.get("scope", "")).split():
            return 403, {"error": "insufficient_scope"}
        return 200, {"owner": claims["sub"]}

    def _claims(self, token: str) -> dict[str, Any] | None:
        if token.count(".") == 2:
            keys = KeySet.import_key_set(self.oidc.ask("/jwks"))
            try:
                claims = jwt.decode(token, keys, algorithms=["RS256", "ES256"]).claims
            except JoseError:
                return None
            good = claims["iss"] == self.oidc.issuer and claims["aud"] == self.oidc.audience
            return claims if good and claims["exp"] > time.time() else None
        told = self.oidc.introspect(token)
        return told if told["active"] else None

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
