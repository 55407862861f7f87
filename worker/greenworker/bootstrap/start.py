"""From the command line to Celery's own ``main``. Called by the launcher, which has done what must come first."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from greenworker import native
from greenworker.bootstrap import import_stubs
from greenworker.bootstrap.imports import WAY_OUT_OF_A_FACTORY, Imports
from greenworker.bootstrap.patching import check_app, patch_first
from greenworker.bootstrap.requirements import check_versions, installed
from greenworker.bootstrap.startup_checks import Arguments, check
from greenworker.brokers.parts import set_urls
from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError, exit_misconfigured, last_words, or_exit, require
from greenworker.monitoring.exposition import Exposition, listen

if TYPE_CHECKING:
    from greenworker.runtime import Runtime


def start(argv: Sequence[str]) -> NoReturn:
    """Run the worker; *argv* is Celery's, without the program's name."""
    _leave_at_once_on_sigterm()
    try:
        environment = Environment.read()
        listener = listen(environment.metrics_port)
        arguments = Arguments.parse(argv)
        set_urls(os.environ)
        check(arguments, environment.role, os.environ)
        urls = (os.environ.get(name, "") for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"))
        check_versions(installed, environment.role, *urls)
        if environment.role == "eventlet":
            patch_first()
            _choose_green_waits()
        require("celery", "the worker is a Celery worker", "install celery[redis] or celery in the image")
        command = _prepare(environment, listener, arguments, list(argv))
    except MisconfiguredError as error:
        exit_misconfigured(error)
    with import_stubs.without_shell():
        from celery.bin.celery import main  # noqa: PLC0415 - not before patching

    sys.argv = ["celery", *command]
    try:
        sys.exit(main())
    except SystemExit as end:
        _leave(end.code)
    except Exception as error:
        last_words(f"{type(error).__name__}: {error}", environment.termination_log)
        sys.excepthook(type(error), error, error.__traceback__)
        _leave(1)


def _leave(code: str | int | None) -> NoReturn:
    """What the interpreter does at its end but for the last part, in which it takes itself apart. Our native threads
    live on and want it, and CPython ends each of them in the middle of its C code: a fault run has seen one worker end
    with SIGSEGV after an orderly drain (Python 3.11; https://github.com/python/cpython/issues/87135).
    """
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    for end in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        try:
            end()
        except Exception:
            traceback.print_exc()
    os._exit(code or 0)


def _leave_at_once_on_sigterm() -> None:
    """As process 1 of a container Python would ignore SIGTERM until Celery installs its handler."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)


def _choose_green_waits() -> None:
    """psycopg 3 waits in C unless it is told not to, before it is imported; what the image or the user says counts
    more.
    """
    if find_spec("psycopg") is not None:
        os.environ.setdefault("PSYCOPG_WAIT_FUNC", "wait_selector")


def _prepare(environment: Environment, listener: native.Socket, arguments: Arguments, argv: list[str]) -> list[str]:
    """Everything between patching and Celery; the command line for Celery."""
    from greenworker.bootstrap import log_lines, settings  # noqa: PLC0415
    from greenworker.brokers import serializers  # noqa: PLC0415
    from greenworker.brokers.factory import kind_of  # noqa: PLC0415
    from greenworker.brokers.forwarding import Routes, declared_queue  # noqa: PLC0415
    from greenworker.pool import request, steps  # noqa: PLC0415
    from greenworker.pool.drain import Drain  # noqa: PLC0415
    from greenworker.runtime import Runtime  # noqa: PLC0415

    runtime = Runtime(environment)
    runtime.drain = Drain(runtime)
    runtime.routes = Routes.of(environment)
    Exposition(listener, runtime.accounting.registry.render, runtime.health, runtime.unready, runtime.woke).start()
    master_name = settings.set_defaults(environment)
    app = _load_app(arguments, green=environment.role == "eventlet")
    runtime.attach_to(app)
    broker = runtime.broker = kind_of(app)
    serializers.restrict(app, environment.accept_content)
    for queue in (arguments.options.get("-Q") or "").split(","):
        if queue:
            declared_queue(app, queue.strip())
    warnings = settings.secure_broker(app, broker, environment)
    warnings += settings.secure_result_backend(app, environment)
    log_lines.follow_the_application(warnings)
    broker.merge_options(app, environment, master_name)
    settings.own_result_backends(app)
    runtime.task_risks.result_stores.watch()
    request.install(app)
    if environment.remote_control == "Disabled":
        app.conf.worker_enable_remote_control = False
    runtime.task_risks.ack_timeout = broker.ack_timeout(app, environment)
    _connect_signals(runtime)
    _keep_last_words(environment.termination_log)
    steps.add_gauges(runtime)
    steps.add_celery_exporter_metrics(runtime, arguments.options.get("-Q") or app.conf.task_default_queue)
    broker.prepare(runtime, companion=environment.role == "prefork")
    if environment.role == "prefork":
        from greenworker.prefork import companion  # noqa: PLC0415
        from greenworker.prefork.drain import ProcessDrain  # noqa: PLC0415

        runtime.drain = ProcessDrain(runtime)
        companion.install(runtime, app)
        return argv
    return [*argv, *_green(runtime, app)]


def _green(runtime: Runtime, app: Any) -> list[str]:
    """What only the Eventlet role has; more arguments for Celery."""
    from celery import signals  # noqa: PLC0415

    from greenworker.pool import steps  # noqa: PLC0415
    from greenworker.pool.task_pool import TaskPool  # noqa: PLC0415

    def use_our_pool(sender: Any, **_: Any) -> None:
        sender.pool_cls = TaskPool

    signals.worker_init.connect(use_our_pool, weak=False)
    app.steps["worker"].add(steps.WorkerStep)
    steps.add_green_gauges(runtime)
    return ["-c", str(runtime.start_threads())]


def _load_app(arguments: Arguments, *, green: bool) -> Any:
    """The app as Celery's own ``-A`` finds it, so that what is wrong with it can be said in four parts."""
    from celery.app.utils import find_app  # noqa: PLC0415

    name = arguments.options.get("-A") or os.environ.get("CELERY_APP") or ""
    if not name:
        raise MisconfiguredError(
            "app", "", "a worker needs to know its Celery app", "set spec.app, as in celery -A <app>"
        )
    workdir = arguments.options.get("--workdir")
    if workdir:
        os.chdir(workdir)
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    imports = Imports(name, directory)
    with imports:
        try:
            app = find_app(name)
            if not hasattr(app, "conf"):
                raise MisconfiguredError(
                    "app", name, f"it is a {type(app).__name__} and no Celery app, and Celery calls no factory",
                    f"{WAY_OUT_OF_A_FACTORY}: spec.app: module:app",
                )  # fmt: skip
            str(app.conf.task_default_queue)  # the configuration is read now; it may be a module of its own
        except BaseException:
            if green:
                check_app(sys.modules)  # it may be the reason
            raise
    if green:
        check_app(sys.modules)
    import_tasks = app.loader.import_default_modules

    def import_tasks_or_exit() -> Any:
        def all_of_them() -> None:
            with imports:
                import_tasks()
            if green:
                check_app(sys.modules)

        return or_exit(all_of_them)

    app.loader.import_default_modules = import_tasks_or_exit
    return app


def _keep_last_words(termination_log: str) -> None:
    """Celery logs what ends a worker, and leaves with nothing but a status."""
    import logging  # noqa: PLC0415 - not before patching

    class LastWords(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            last_words(record.getMessage(), termination_log)

    logging.getLogger("celery.worker").addHandler(LastWords(logging.CRITICAL))


def _connect_signals(runtime: Runtime) -> None:
    from celery import signals  # noqa: PLC0415

    from greenworker.bootstrap import remote_control  # noqa: PLC0415
    from greenworker.compat import round_up_delays  # noqa: PLC0415
    from greenworker.pool.retries import store_retries_first  # noqa: PLC0415
    from greenworker.router import stamp_publish_time  # noqa: PLC0415

    def shutting_down(**_: Any) -> None:
        runtime.drain.begin()

    def ended(**_: Any) -> None:
        if runtime.drain.draining:
            runtime.say(runtime.drain.summary())

    def revoked(request: Any = None, **_: Any) -> None:
        runtime.accounting.revoked.add(1, str(getattr(request, "name", "unknown")))

    def tasks_are_loaded(sender: Any = None, **_: Any) -> None:
        round_up_delays()
        store_retries_first(sender.app)
        remote_control.restrict(runtime.environment.remote_control, runtime.environment.role)
        if runtime.environment.role == "eventlet":
            remote_control.keep_listening()
        if sender.app.conf.worker_enable_remote_control:
            runtime.broker.remote_control_starts(sender.app, sender.hostname)

    signals.worker_init.connect(tasks_are_loaded, weak=False)
    signals.task_revoked.connect(revoked, weak=False)
    stamp_publish_time()
    # A signal may interrupt the handler of another one: a green lock that it holds would be waited for inside the hub.
    signals.worker_shutting_down.lock = native.ReentrantLock()
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    signals.worker_shutdown.connect(ended, weak=False)
