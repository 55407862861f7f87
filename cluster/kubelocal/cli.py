"""The commands of `cluster/kube`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from kubelocal import baseimage, binaries, buildah, debian, golang, images, keda, runtime, topology
from kubelocal.cluster import Cluster
from kubelocal.errors import ClusterError
from kubelocal.places import Places, known_clusters
from kubelocal.report import Report
from kubelocal.topology import Kind


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    report = Report(quiet=getattr(options, "quiet", False))
    try:
        return int(options.run(options, report))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster/kube", description="A real Kubernetes on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--name", help="the cluster (default: greenfleet, or greenfleet-control-plane)")
    which.add_argument(
        "--control-plane-only",
        action="store_true",
        help="etcd, the API server and the controllers, on loopback; no node, no root",
    )
    quiet = argparse.ArgumentParser(add_help=False)
    quiet.add_argument("--quiet", action="store_true", help="say nothing unless something fails")

    up = commands.add_parser("up", parents=[which, quiet], help="start it, or repair it, and wait until it is ready")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", parents=[which, quiet], help="remove it and everything that it made")
    down.add_argument("--all", action="store_true", help="every cluster of this user")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", parents=[which], help="what runs")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)
    kubeconfig = commands.add_parser("kubeconfig", parents=[which], help="print the path of the kubeconfig")
    kubeconfig.set_defaults(run=_kubeconfig)
    env = commands.add_parser("env", parents=[which], help='print exports, for eval "$(cluster/kube env)"')
    env.set_defaults(run=_env)
    path = commands.add_parser("path", help="print the directory of the binaries")
    path.set_defaults(run=_path)
    load = commands.add_parser("load", parents=[which, quiet], help="load image archives into the cluster")
    load.add_argument("archive", nargs="+", help="a file, also as oci-archive:FILE")
    load.set_defaults(run=_load)
    program = commands.add_parser("program", parents=[quiet], help="build programs that are missing; print their paths")
    known = ", ".join(program.name for program in (*binaries.PROGRAMS, *binaries.TOOLS))
    program.add_argument("program", nargs="+", help=known)
    program.set_defaults(run=_program)
    module = commands.add_parser("module", parents=[quiet], help="download Go modules; print where they are")
    module.add_argument("module", nargs="+", help="PATH@VERSION=CHECKSUM, the checksum as in go.sum (h1:…)")
    module.set_defaults(run=_module)
    autoscaler = commands.add_parser(
        "keda",
        parents=[which, quiet],
        help="KEDA beside the cluster, for benches (15 min the first time: it is compiled)",
    )
    autoscaler.add_argument("action", choices=["build", "up", "down"])
    autoscaler.set_defaults(run=_keda)
    packages = commands.add_parser("packages", parents=[quiet], help="install what the tests need and is missing")
    packages.set_defaults(run=_packages)
    _add_image_commands(commands.add_parser("image", help="make images"), which, quiet)
    return parser


def _add_image_commands(
    image: argparse.ArgumentParser, which: argparse.ArgumentParser, quiet: argparse.ArgumentParser
) -> None:
    commands = image.add_subparsers(required=True, metavar="COMMAND")
    base = commands.add_parser("base", parents=[quiet], help="make the base image; print its name")
    base.add_argument("--refresh", action="store_true", help="make it anew, with Debian's latest fixes")
    base.set_defaults(run=_image_base)
    file = commands.add_parser("file", parents=[quiet], help="print a file that an image holds; build it if need be")
    file.add_argument("image", help="a recipe in cluster/images (redis, …) or a target of the Dockerfile")
    file.add_argument("path", help="absolute path in the image")
    file.set_defaults(run=_image_file)
    push = commands.add_parser("push", parents=[quiet], help="build an image, push it to a registry, print its digest")
    push.add_argument("image", help="a recipe in cluster/images (redis, …) or a target of the Dockerfile")
    push.add_argument("reference", help="where to: REGISTRY/NAME:TAG")
    push.add_argument("--label", action="append", default=[], metavar="K=V", help="put into the image")
    push.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS (one on this machine)")
    push.set_defaults(run=_image_push)
    pause = commands.add_parser("pause", parents=[quiet], help="make the sandbox image; print its archive")
    pause.set_defaults(run=_image_pause)
    build = commands.add_parser("build", parents=[which, quiet], help="build an image, load it if a cluster is up")
    build.add_argument("image", help="a recipe in cluster/images (redis, …) or a target of the Dockerfile")
    build.add_argument("--file", type=Path, help="another Dockerfile")
    build.add_argument("--target", default="", help="the stage to build")
    build.add_argument("--tag", default="", help="default: localhost/greenfleet-IMAGE:dev")
    build.add_argument("--alias", action="append", default=[], metavar="NAME", help="another name in the cluster")
    build.add_argument("--build-arg", action="append", default=[], metavar="K=V")
    build.add_argument("--context", type=Path, help="default: the directory of the checkout")
    build.set_defaults(run=_image_build)


def _up(options: argparse.Namespace, report: Report) -> int:
    name = _name(options)
    report.say(f"cluster {name}: up")
    chosen = Cluster(name, report).up(_kind(options))
    report.say(f"cluster {name} is ready at {chosen.server}; KUBECONFIG={Places(name).kubeconfig}")
    return 0


def _down(options: argparse.Namespace, report: Report) -> int:
    for name in known_clusters() if options.all else [_name(options)]:
        with report.step(f"removing cluster {name}"):
            removed = Cluster(name, report).down()
        if not removed:
            report.say(f"  there was no cluster {name}")
    if options.all:
        buildah.forget()
    return 0


def _status(options: argparse.Namespace, report: Report) -> int:
    name = _name(options)
    status = Cluster(name, report).status()
    if status is None:
        report.warn(f"there is no cluster {name}; start it with `cluster/kube up`")
        return 1
    if options.json:
        document = {
            "name": name,
            "kind": status.topology.kind,
            "server": status.topology.server,
            "kubeconfig": str(Places(name).kubeconfig),
            "healthy": status.healthy,
            "processes": status.processes,
            "logs": str(Places(name).logs),
        }
        print(json.dumps(document, indent=2))
    else:
        print(
            f"{name} ({status.topology.kind}) at {status.topology.server}: {'ready' if status.ready else 'NOT ready'}"
        )
        for process, pid in status.processes.items():
            print(f"  {process:<24}{f'pid {pid}' if pid else 'NOT running'}")
        print(f"  logs in {Places(name).logs}")
    return 0 if status.healthy else 1


def _kubeconfig(options: argparse.Namespace, report: Report) -> int:
    print(_existing(options).kubeconfig)
    return 0


def _env(options: argparse.Namespace, report: Report) -> int:
    print(f"export KUBECONFIG={shlex.quote(str(_existing(options).kubeconfig))}")
    print(f'export PATH={shlex.quote(str(binaries.directory()))}:"$PATH"')
    return 0


def _path(options: argparse.Namespace, report: Report) -> int:
    print(binaries.directory())
    return 0


def _load(options: argparse.Namespace, report: Report) -> int:
    places = _existing(options)
    for given in options.archive:
        archive = Path(given.removeprefix("oci-archive:"))
        if not archive.is_file():
            raise ClusterError(f"There is no image archive {archive}.")
        if not runtime.answers(places):
            raise ClusterError(f"Cluster {places.name} has no running containerd. Start it with `cluster/kube up`.")
        with report.step(f"loading {archive.name}"):
            images.load(places, archive)
    return 0


def _packages(options: argparse.Namespace, report: Report) -> int:
    debian.ensure(debian.FOR_TESTS, report)
    return 0


def _program(options: argparse.Namespace, report: Report) -> int:
    print(*binaries.ensure_named(options.program, report), sep="\n")
    return 0


def _module(options: argparse.Namespace, report: Report) -> int:
    print(*(golang.download(module, report) for module in options.module), sep="\n")
    return 0


def _keda(options: argparse.Namespace, report: Report) -> int:
    if options.action == "build":
        print(keda.ensure_built(report))
    elif options.action == "up":
        keda.up(_existing(options), report)
    else:
        keda.down(_existing(options))
    return 0


def _image_base(options: argparse.Namespace, report: Report) -> int:
    print(baseimage.ensure(report, refresh=options.refresh))
    return 0


def _image_push(options: argparse.Namespace, report: Report) -> int:
    wanted = images.recipe(options.image, report)
    labels = dict(label.split("=", 1) for label in options.label)
    print(images.push(wanted, options.reference, labels, report, plain_http=options.plain_http))
    return 0


def _image_pause(options: argparse.Namespace, report: Report) -> int:
    programs = binaries.ensure(tuple(program for program in binaries.PROGRAMS if program.name == "pause"), report)
    print(images.pause(programs))
    return 0


def _image_build(options: argparse.Namespace, report: Report) -> int:
    unusable = [argument for argument in options.build_arg if "=" not in argument]
    if unusable:
        raise ClusterError(f"--build-arg {unusable[0]!r} has no value. Write it as K=V.")
    recipe = images.recipe(
        options.image,
        report,
        dockerfile=options.file,
        target=options.target,
        tag=options.tag,
        context=options.context,
        arguments=dict(argument.split("=", 1) for argument in options.build_arg),
    )
    archive = images.build(recipe, report)
    places = Places(_name(options))
    if runtime.answers(places):
        with report.step(f"loading {recipe.tag} into cluster {places.name}"):
            images.load(places, archive)
            for other in options.alias:
                images.alias(places, recipe.tag, other)
    print(recipe.tag)
    return 0


def _image_file(options: argparse.Namespace, report: Report) -> int:
    recipe = images.recipe(options.image, report)
    print(images.read(recipe, options.path, report), end="")
    return 0


def _kind(options: argparse.Namespace) -> Kind:
    return Kind.CONTROL_PLANE if options.control_plane_only else Kind.FULL


def _name(options: argparse.Namespace) -> str:
    return options.name or topology.default_name(_kind(options))


def _existing(options: argparse.Namespace) -> Places:
    places = Places(_name(options))
    if not places.kubeconfig.exists():
        raise ClusterError(f"There is no cluster {places.name}. Start it with `cluster/kube up`.")
    return places
