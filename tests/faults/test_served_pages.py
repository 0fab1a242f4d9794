"""The slider's server under attack: a real one, asked for what it must not give.

It serves a notebook of two lines in the explorer's place, which leaves a mark each time it is run.
What a browser makes of the real page, and JupyterLab's server, is in
`tests/fitclip_kit/slider/test_browser.py`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import nbformat
import psutil
import pytest
from tornado.websocket import websocket_connect

from fitclip_kit.slider import serve
from fitclip_kit.store.files import write_text
from tests.browser import PATIENCE, ROOT, Server, serving

START = (
    "import sys; from pathlib import Path; from fitclip_kit.slider.serve import Server; "
    "Server(Path(sys.argv[1]), None).start()"
)
SECRET = "secret of the page 5d0e"
FILED = "secret of the file 91c2"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
EVIL = "http://evil.example"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def gives_nothing(self) -> bool:
        """A refusal, or the way to the login form."""
        to_login = self.status == 302 and self.headers["location"].startswith("/login?")
        told = SECRET.encode() in self.content or FILED.encode() in self.content
        return not told and (to_login or self.status in (400, 403, 404, 405))


@dataclass(frozen=True)
class Served(Server):
    """The server after the page was opened once; `cookies` are that visitor's."""

    folder: Path
    kernel: str = ""
    cookies: str = ""

    @property
    def channels(self) -> str:
        return f"/api/kernels/{self.kernel}/channels"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """A request, sent as it is written here; `channels` is asked for as a websocket.

        headers: names with _ for -; of `Host` too, by default the server's own.
        """
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {"Host": urlsplit(self.origin).netloc, **given}
        given |= UPGRADE if "/channels" in path else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            # A websocket's stream has no end.
            content = b"" if response.status == 101 else response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, content)
        finally:
            connection.close()

    def with_token(self, path: str) -> str:
        return f"{path}{'&' if '?' in path else '?'}token={self.token}"

    @property
    def runs(self) -> int:
        """How often the notebook was run."""
        return (self.folder / "runs.txt").read_text().count("run")

    def is_unharmed(self) -> bool:
        """Whether the kernel still is there, and no other one or code was run."""
        found = self.ask(self.with_token(f"/api/kernels/{self.kernel}"))
        marks = [path.name for path in self.folder.iterdir() if path.name.startswith("attack")]
        return found.status == 200 and self.runs == 1 and not marks


def notebook(*lines: str) -> nbformat.NotebookNode:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    return nbformat.v4.new_notebook(cells=[cell], metadata=kernel)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    page = notebook(f"print({SECRET!r})", "print('run', file=open('runs.txt', 'a'))")
    nbformat.write(page, str(folder / f"{serve.STEM}.ipynb"))
    nbformat.write(notebook("open('attack_of_another', 'w')"), str(folder / "another.ipynb"))
    write_text(folder / "secret.txt", FILED)
    with serving(["-c", START, str(folder)], tmp_path_factory.mktemp("log")) as server:
        closed = Served(**vars(server), folder=folder)
        first = closed.ask(closed.with_token("/"))
        assert first.status == 200 and SECRET in first.content.decode()
        (kernel,) = re.findall(r'"kernelId": ?"([0-9a-f-]{36})"', first.content.decode())
        cookies = first.headers["set-cookie"].partition(";")[0]
        yield replace(closed, kernel=kernel, cookies=cookies)


# From where


def processes(served: Served) -> list[psutil.Process]:
    """The server and its kernel."""
    server = psutil.Process(served.process)
    return [server, *server.children()]


def test_the_server_and_its_kernel_listen_on_the_loopback_interface_only(served: Served) -> None:
    found = [
        [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        for process in processes(served)
    ]
    assert ("127.0.0.1", served.port) in found[0]
    assert len(found) == 2 and all(found)
    assert {address.ip for of_process in found for address in of_process} == {"127.0.0.1"}


def test_no_other_address_of_the_machine_answers(served: Served) -> None:
    others = {"127.0.0.2"}  # whoever listens on all addresses listens on this one
    found = socket.getaddrinfo(socket.gethostname(), served.port, type=socket.SOCK_STREAM)
    others |= {str(one[4][0]) for one in found} - {"127.0.0.1"}
    for address in others:
        with pytest.raises(OSError):
            socket.create_connection((address, served.port), timeout=5)


HOSTS = (
    *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "192.168.0.1:{port}"),
    *("localhost.evil.example", "0.0.0.0:{port}", "[::ffff:c0a8:1]:{port}", "127.0.0.1 evil:1", ""),
)


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_was_bound_to_this_machine_is_refused(served: Served, host: str) -> None:
    """DNS rebinding: a page of evil.example asks the server by a name that now leads here, and the
    browser takes both for one origin. Token and cookies do not help."""
    name = host.format(port=served.port)
    for path in ("/", f"/api/kernels/{served.kernel}", served.channels, "/login"):
        origin = f"http://{name}"
        for asked in (path, served.with_token(path)):
            found = served.ask(asked, Host=name, Origin=origin, Cookie=served.cookies)
            assert found.gives_nothing and found.status != 302, (found, asked)
    assert served.is_unharmed()


def test_the_machines_own_names_are_served(served: Served) -> None:
    path = served.with_token(f"/api/kernels/{served.kernel}")
    for host in (f"127.0.0.1:{served.port}", f"localhost:{served.port}", "[::1]:80"):
        assert served.ask(path, Host=host).status == 200


# To whom

PATHS = (
    *("/", "/?voila=1", "/explore_alpha.ipynb", "/another.ipynb", "/secret.txt", "/lab", "/tree"),
    *("/voila/render/explore_alpha.ipynb", "/voila/render/another.ipynb", "/voila/tree/"),
    *("/voila/files/explore_alpha.ipynb", "/voila/files/secret.txt", "/files/secret.txt"),
    *("/voila/static/secret.txt", "/voila/templates/lab/static/secret.txt", "/static/secret.txt"),
    *("/voila/labextensions/secret.txt", "/voila/api/themes/secret.txt"),
    *("/api", "/api/kernels", "/api/kernels/{kernel}", "/api/kernels/{kernel}/channels"),
    *("/api/kernels/{kernel}/restart", "/api/kernels/{kernel}/interrupt", "/api/kernelspecs"),
    *("/api/contents", "/api/contents/secret.txt", "/voila/api/contents/", "/api/sessions"),
    *("/api/terminals", "/terminals/1", "/api/me", "/api/status", "/api/shutdown", "/api/config/x"),
    *("/voila/api/shutdown/{kernel}", "/voila/query/{kernel}", "/voila/execution/{kernel}"),
    *("/metrics", "/nbextensions/secret.txt", "/kernelspecs/python3/logo-64x64.png", "/view/x"),
)


@pytest.mark.parametrize("kind", ["none", "wrong", "part", "longer", "upper", "twice", "header"])
def test_without_the_token_nothing_is_given_and_nothing_done(served: Served, kind: str) -> None:
    tokens = {"none": "", "wrong": "token=0", "part": f"token={served.token[:-1]}"}
    tokens |= {"longer": f"token={served.token}0", "upper": f"token={served.token.swapcase()}"}
    tokens |= {"twice": f"token={served.token}&token=", "header": ""}
    headers = {"Authorization": f"token {served.token[1:]}"} if kind == "header" else {}
    headers |= {"Cookie": forged(served)} if kind == "none" else {}
    for path in PATHS:
        asked = path.format(kernel=served.kernel)
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
            mark = "&" if "?" in asked else "?"
            found = served.ask(f"{asked}{mark}{tokens[kind]}", method, **headers)
            assert found.gives_nothing, (method, asked, found)
    assert served.is_unharmed()


def forged(served: Served) -> str:
    """The visitor's cookie with another signature."""
    name, value = served.cookies.split("=", 1)
    return f"{name}={value[:-5]}0000{value[-1]}"


def test_what_everybody_gets_is_the_programs_own(served: Served) -> None:
    """The login form and the files that the programs came with; nothing of the user's."""
    form = served.ask("/login")
    assert form.status == 200 and "password" in form.content.decode()
    assert SECRET not in form.content.decode() and served.token not in form.content.decode()
    script = served.ask("/voila/static/voila.js")
    packages = Path(sys.prefix, "share", "jupyter")
    assert script.content in {path.read_bytes() for path in packages.rglob("voila.js")}


def test_with_the_token_there_is_the_page_and_nothing_else(served: Served) -> None:
    own = {"/", "/?voila=1", "/api/me", f"/api/kernels/{served.kernel}", served.channels}
    own |= {f"/voila/api/shutdown/{served.kernel}"}
    for path in {one.format(kernel=served.kernel) for one in PATHS} - own:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            found = served.ask(served.with_token(path), method)
            to_a_file = found.headers.get("location", "").startswith("/voila/files/")
            assert found.gives_nothing or to_a_file, (method, path, found)
            if to_a_file:
                asked = served.with_token(found.headers["location"])
                assert served.ask(asked).status in (403, 404)
    assert served.is_unharmed()


def test_a_page_cannot_make_the_kernel_run_code(served: Served) -> None:
    replies = asyncio.run(conversation(served))
    assert replies == ["kernel_info_reply"]
    assert served.is_unharmed()


async def conversation(served: Served) -> list[str]:
    """Send code, and a question after it in the same queue; the replies to both."""
    url = served.with_token(f"ws://127.0.0.1:{served.port}{served.channels}")
    connection = await websocket_connect(url)
    code = {"code": "open('attack_by_message', 'w')", "silent": False, "store_history": False}
    asked = [message("execute_request", **code), message("kernel_info_request")]
    for one in asked:
        await connection.write_message(json.dumps(one))
    sent = {one["header"]["msg_id"] for one in asked}
    replies: list[str] = []
    while "kernel_info_reply" not in replies:
        text = await asyncio.wait_for(connection.read_message(), PATIENCE)
        assert text is not None, "the server closed the connection"
        reply = json.loads(text)
        if reply["channel"] == "shell" and reply["parent_header"].get("msg_id") in sent:
            replies.append(reply["header"]["msg_type"])
    connection.close()
    return replies


def message(kind: str, **content: Any) -> dict[str, Any]:
    header = {"msg_id": kind, "msg_type": kind, "session": "attack", "username": "attack"}
    header |= {"version": "5.3", "date": datetime.now(UTC).isoformat()}
    parts = {"header": header, "content": content, "channel": "shell", "buffers": []}
    return {**parts, "parent_header": {}, "metadata": {}}


# By which way

UPS = ("../", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%5c", "..\\", "....//", "%252e%252e%252f", "..;/")
STARTS: tuple[str, ...] = ("/", "/voila/static/", "/voila/files/", "/voila/templates/lab/static/")
STARTS += ("/voila/templates/../static/", "/voila/labextensions/", "/voila/api/themes/")
ABSOLUTE: tuple[str, ...] = (
    "//{path}",
    "/%2f{path}",
    "/voila/static/%2f{path}",
    "/voila/files/%2f{path}",
)
ABSOLUTE += ("/voila/static//{path}", "http://127.0.0.1/{path}", "file://{path}", "/%00{path}")
ABSOLUTE += ("/voila/templates/lab/static/%2f{path}", "/voila/labextensions/%2f{path}")


def test_no_path_leads_to_a_file(served: Served) -> None:
    target = str(served.folder / "secret.txt")
    paths = [
        f"{start}{up * count}{target.lstrip('/')}"
        for start, up, count in product(STARTS, UPS, (1, 3, 12))
    ]
    paths += [f"{start}{up * 12}etc/passwd" for start, up in product(STARTS, UPS)]
    paths += [one.format(path=place) for one in ABSOLUTE for place in (target, "/etc/passwd")]
    for path in paths:
        for asked in (path, served.with_token(path)):
            found = served.ask(asked)
            assert FILED.encode() not in found.content and b"root:" not in found.content
            assert found.status not in (200, 206), asked


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example/", "/\\evil.example", "///e.x"]
)
def test_logging_in_leads_nowhere_else(served: Served, to: str) -> None:
    found = served.ask(served.with_token(f"/login?next={quote(to)}"))
    assert found.status == 302 and re.match(r"/(?![/\\])", found.headers["location"])


# For whom


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "https://127.0.0.1", "http://127.0.0.1:1", "file://"]
)
def test_a_page_from_elsewhere_gets_nothing_with_the_visitors_cookies(
    served: Served, origin: str
) -> None:
    """The browser adds them to whatever another page asks for; that page may not read an answer,
    open a websocket or change anything, not even if it knows the token."""
    page = {"Origin": origin, "Referer": f"{origin}/page", "Cookie": served.cookies}
    kernel = f"/api/kernels/{served.kernel}"
    for path in (kernel, served.with_token(kernel)):
        read = served.ask(path, **page)
        allowed = read.headers.get("access-control-allow-origin", served.origin)
        assert read.gives_nothing or allowed == served.origin
        assert "access-control-allow-credentials" not in read.headers
    for path in (served.channels, served.with_token(served.channels)):
        assert served.ask(path, **page).status == 403
    for method, path in (("DELETE", kernel), ("POST", f"/voila/api/shutdown/{served.kernel}")):
        assert served.ask(path, method, **page).status in (403, 404)
    assert served.is_unharmed()


def test_a_change_needs_more_than_the_visitors_cookies(served: Served) -> None:
    """Where the browser tells no origin, there is the token against forged requests."""
    for method, path in (
        ("DELETE", f"/api/kernels/{served.kernel}"),
        ("POST", f"/voila/api/shutdown/{served.kernel}"),
    ):
        assert served.ask(path, method, Cookie=served.cookies).status == 403
    assert served.is_unharmed()


def test_the_visitors_cookie_stays_with_its_site(served: Served) -> None:
    cookie = served.ask(served.with_token(f"/api/kernels/{served.kernel}")).headers["set-cookie"]
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    assert served.ask(f"/api/kernels/{served.kernel}", Cookie=served.cookies).status == 200
    assert served.ask(served.channels, Cookie=served.cookies).status == 101


def test_no_page_may_hold_it_in_a_frame_or_learn_its_address(served: Served) -> None:
    for path in (served.with_token(f"/api/kernels/{served.kernel}"), "/login", "/api/kernels/0"):
        headers = served.ask(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"


# What others see of it


def test_a_refusal_is_a_line_in_the_log_and_a_page(served: Served) -> None:
    before = len(served.log.read_text())
    for path, headers in (
        (served.channels, {}),
        (served.channels, {"Origin": EVIL, "Cookie": served.cookies}),
        ("/", {"Host": "evil.example"}),
        (f"/api/kernels/{served.kernel}", {"Host": "evil.example"}),
    ):
        assert served.ask(path, **headers).status == 403
    said = served.log.read_text()[before:]
    assert "Traceback" not in said and served.token not in said
    page = served.ask("/", Host="evil.example").content.decode()
    styles = re.findall(r'href="(/[^"?]+\.css)', page)  # what is elsewhere the policy forbids
    assert styles and all(served.ask(one).status == 200 for one in styles)


def test_the_token_is_in_no_command_line(served: Served) -> None:
    for process in processes(served):
        assert process.cmdline() and served.token not in " ".join(process.cmdline())


# JupyterLab


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lab_leaves_jupyters_own_protection_on() -> None:
    """It names a folder and a page; address, token and the checks of origin are Jupyter's."""
    said = subprocess.run(
        ["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (command,) = [line for line in said.splitlines() if "jupyterlab" in line]
    options = re.findall(r"--(\S+?)(?:=|\s|$)", command)
    assert set(options) == {"ServerApp.root_dir", "LabApp.default_url"}
