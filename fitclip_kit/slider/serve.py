"""Serve the alpha slider without a notebook, to this machine alone and with a token."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import nbformat
import zmq
from jupyter_server import DEFAULT_STATIC_FILES_PATH
from jupyter_server.auth.identity import PasswordIdentityProvider
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from tornado.web import RequestHandler
from traitlets import default
from voila.app import Voila

from fitclip_kit.engine.execute import USERS_SETTINGS
from fitclip_kit.engine.settings import (
    TAG,
    ParameterError,
    cell_tags,
    merge_profile,
    profile_file,
    read_notebook,
    read_notebooks,
    read_profile,
)
from fitclip_kit.store.files import write_text

NOTEBOOKS: Final = Path(__file__).parents[2] / "notebooks"
STEM: Final = "explore_alpha"
STILL: Final = "still"  # tag of cells for readers of the notebook
LOOPBACK: Final = "127.0.0.1"
UPLOAD_MB: Final = 200  # of one message from the browser, so of one upload

TEMPLATES: Final = Path(__file__).parent / "templates" / "voila"  # the page around the notebook
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; object-src 'none'"
)


class Identity(PasswordIdentityProvider):
    """Knows visitors by the token, and asks of each request which page it is from."""

    @default("cookie_options")
    def _cookie_options(self) -> dict[str, str]:
        return {"samesite": "Strict"}

    def should_check_origin(self, handler: RequestHandler) -> bool:
        """True: Jupyter would let other sites' pages use the token, if they knew it."""
        return True


class Server(Voila):
    """Voila on the loopback interface, with a token, for the notebook in a folder."""

    def __init__(self, folder: Path, port: int | None, **settings: Any) -> None:
        super().__init__(log_level=logging.WARNING, **settings)  # else it prints half an address
        self.initialize([str(folder / f"{STEM}.ipynb")])
        # Set here and not as options, so that no file of settings comes before them.
        self.ip, self.port, self.port_retries = LOOPBACK, port or _free_port(), 0
        self.token, self.identity_provider_class = secrets.token_urlsafe(32), Identity
        self.open_browser = True  # see `launch_browser`
        self.tornado_settings = {
            "xsrf_cookies": True,
            "allow_remote_access": False,  # by another name than this machine's own
            "allow_origin": f"http://{LOOPBACK}:{self.port}",
            "websocket_max_message_size": UPLOAD_MB * 2**20,
            "static_path": DEFAULT_STATIC_FILES_PATH,  # for the page that says what was refused
            "static_url_prefix": "/voila/static/",
            "ws_ping_interval": 0,  # no proxy between; the defaults do not fit tornado's rules
            "headers": {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"},
        }
        page = self.voila_configuration
        page.allow_template_override = page.allow_theme_override = "NO"
        page.file_allowlist = [r"(?!)"]  # serve no file
        page.show_tracebacks = True  # they say which notebook to run first
        self.config.AsyncMappingKernelManager.cull_idle_timeout = 120  # seconds without a page
        self.config.AsyncMappingKernelManager.cull_interval = 30
        if zmq.has("curve"):
            self.config.KernelManager.transport_encryption = "auto"
        # The notebook was made here: it is trusted, with a key of its own.
        files = {"db_file": str(folder / "signatures.db"), "secret_file": str(folder / "secret")}
        self.config.NotebookNotary.update(files)
        notebook = nbformat.read(folder / f"{STEM}.ipynb", as_version=4)
        NotebookNotary(**files).sign(notebook)

    @property
    def url(self) -> str:
        """Where the page is, with the token."""
        return f"http://{LOOPBACK}:{self.port}/?token={self.token}"

    def setup_template_dirs(self) -> None:
        """Put the page around the notebook before Voila's own."""
        super().setup_template_dirs()
        self.template_paths.insert(0, str(TEMPLATES))

    def launch_browser(self) -> None:
        """Say where the page is, once it is served. A browser's command line, which every user of
        the machine can see, would tell the token."""
        print(f"The alpha slider is at\n    {self.url}\nCtrl-C ends it.", flush=True)


def page_parameters(profile: str, runs_dir: Path) -> dict[str, Any]:
    """The parameters of the page's notebook for a profile's run.

    Raises: ParameterError naming everything wrong with the profile.
    """
    path = NOTEBOOKS / f"{STEM}.ipynb"
    declared = {one.stem: one.defaults for one in read_notebooks(NOTEBOOKS)}
    declared[STEM] = read_notebook(path).defaults
    sections = read_profile(profile_file(NOTEBOOKS, profile))
    values = merge_profile(sections, declared)[STEM]
    for name in [name for name in values if name.endswith("_file") and values[name]]:
        values[name] = str((NOTEBOOKS / values[name]).resolve())
    return {"run_dir": str((runs_dir / profile).resolve()), **values}


def page_notebook(parameters: dict[str, Any]) -> NotebookNode:
    """The page's notebook with these parameters, without its cells for readers."""
    notebook = nbformat.read(NOTEBOOKS / f"{STEM}.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if STILL not in cell_tags(cell)]
    declared = next(cell for cell in notebook.cells if TAG in cell_tags(cell))
    declared.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    return notebook


def serve(profile: str, runs_dir: Path, port: int | None = None) -> int:
    """Serve a profile's run until Ctrl-C, at any free port where none is given.

    Returns: the exit status: 0 stopped, 1 the run is not finished, 2 bad parameters.
    """
    try:
        parameters = page_parameters(profile, runs_dir)
    except ParameterError as error:
        print(f"Nothing is served. What is wrong:\n{error}", file=sys.stderr)
        return 2
    run_dir = Path(parameters["run_dir"])
    if not (run_dir / "04_alpha_sweep" / "manifest.json").is_file():
        print(
            f"Nothing is served: {run_dir} has no finished notebook 04; run "
            f"`make reproduce PROFILE={profile}` first.",
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="fitclip_slider_") as name:
        folder = Path(name)
        write_text(folder / f"{STEM}.ipynb", nbformat.writes(page_notebook(parameters)))
        # Kernels start in that folder; they are to find the kit as this process does.
        path = [str(NOTEBOOKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ |= {**USERS_SETTINGS, "IPYTHONDIR": str(folder / "ipython")}
        os.environ["PYTHONPATH"] = os.pathsep.join(path)
        Server(folder, port).start()
    return 0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port
