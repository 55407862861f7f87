"""Bad input: refused at `kubectl apply` with field, value, reason and fix, or `Stalled` with the same; it harms no
other pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Namespace, Refused, eventually, fresh_name, only_exporters

SECRET = {"name": "broker", "key": "url"}
REDIS = {"transport": "redis", "host": {"value": "redis"}}
VOLUME = {"name": "v", "emptyDir": {}}
CRON = {"name": "office-hours", "cron": "0 8 * * *", "duration": "1h", "minReplicas": 1}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    # cross-field rules
    "threads min above max": (
        {"greenThreads": {"min": 50, "max": 20}},
        ["spec.greenThreads.min", "greenThreads.min is 50", "greenThreads.max (20)", "lower min or raise max"],
    ),
    "replicas min above max": (
        {"replicas": {"min": 5, "max": 2}},
        ["spec.replicas.min", "replicas.min is 5", "lower min or raise max"],
    ),
    "prefork min above max": (
        {"prefork": {"replicas": {"min": 5, "max": 2}}},
        ["spec.prefork.replicas.min", "prefork.replicas.min is 5"],
    ),
    "start outside the bounds": (
        {"greenThreads": {"min": 10, "max": 20, "start": 100}},
        ["spec.greenThreads.start", "greenThreads.start is 100", "choose a value between them"],
    ),
    "total below the least fleet": (
        {"greenThreads": {"min": 100, "total": 150}, "replicas": {"min": 2, "max": 4}},
        ["greenThreads.total is 150", "(200)", "raise total"],
    ),
    "total below one worker": (
        {"greenThreads": {"min": 100, "total": 50}},
        ["greenThreads.total is 50", "not one worker could run"],
    ),
    "floor without its policy": (
        {"scaling": {"onMissingMetrics": {"floor": 3}}},
        ["scaling.onMissingMetrics.floor is set", "no effect", "set policy to Floor, or remove floor"],
    ),
    "floor without a number": (
        {"scaling": {"onMissingMetrics": {"policy": "Floor"}}},
        ["scaling.onMissingMetrics.policy is Floor", "say how many"],
    ),
    # unknown and missing fields
    "unknown field": ({"threads": 5}, ["threads", "unknown field"]),
    "unknown nested field": ({"scaling": {"maxwait": "5s"}}, ["maxwait", "unknown field"]),
    "a whole PodSpec": ({"worker": {"hostNetwork": True}}, ["hostNetwork", "unknown field"]),
    "a privileged worker": (
        {"worker": {"securityContext": {"privileged": True}}},
        ["privileged", "unknown field"],
    ),
    "a volume that reaches into the node": (
        {"worker": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}},
        ["hostPath", "unknown field"],
    ),
    "a projected token": (
        {"worker": {"volumes": [{"name": "t", "projected": {"sources": []}}]}},
        ["projected", "unknown field"],
    ),
    "a Secret of another namespace": (
        {"broker": {"urlFrom": {"secretKeyRef": {**SECRET, "namespace": "kube-system"}}}},
        ["namespace", "unknown field"],
    ),
    "no app": ({"app": None}, ["spec.app", "Required value"]),
    "no broker": ({"broker": None}, ["spec.broker", "Required value"]),
    "no queues": ({"queues": None}, ["spec.queues", "Required value"]),
    "no key of the Secret": (
        {"broker": {"urlFrom": {"secretKeyRef": {"name": "broker"}}}},
        ["spec.broker.urlFrom.secretKeyRef.key", "Required"],
    ),
    # a broker in parts
    "a broker by nothing": (
        {"broker": {"keyPrefix": "x"}},
        ["spec.broker", "broker.urlFrom is not set", "broker.transport and broker.host"],
    ),
    "a transport without a host": ({"broker": {"transport": "redis"}}, ["broker.urlFrom is not set"]),
    "a host without a transport": ({"broker": {"host": {"value": "redis"}}}, ["broker.urlFrom is not set"]),
    "a URL and parts": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, **REDIS}},
        ["broker.urlFrom is set beside 2 of transport, host", "keep broker.urlFrom"],
    ),
    "a URL and a password": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, "password": {"secretKeyRef": SECRET}}},
        ["broker.urlFrom is set beside 1 of transport, host"],
    ),
    "results by a URL and parts": (
        {"resultBackend": {"urlFrom": {"secretKeyRef": SECRET}, **REDIS}},
        ["resultBackend.urlFrom is set beside 2 of"],
    ),
    "results by nothing": ({"resultBackend": {}}, ["spec.resultBackend", "resultBackend.urlFrom is not set"]),
    "a password in the text": (
        {"broker": {**REDIS, "password": {"value": "hunter2"}}},
        ["spec.broker.password.value", "unknown field"],
    ),
    "a user twice": (
        {"broker": {**REDIS, "username": {"value": "shop", "secretKeyRef": SECRET}}},
        ["spec.broker.username", "username sets 2 of value, secretKeyRef", "keep one"],
    ),
    "a host that is nowhere": ({"broker": {**REDIS, "host": {}}}, ["spec.broker.host", "host sets 0 of value"]),
    "a password without a user on RabbitMQ": (
        {"broker": {**REDIS, "transport": "amqp", "password": {"secretKeyRef": SECRET}}},
        ["spec.broker.password", "broker.transport is amqp", "set broker.username"],
    ),
    "another user in a host": (
        {"broker": {**REDIS, "host": {"value": "u:p@evil"}}},
        ["spec.broker.host.value", "u:p@evil"],
    ),
    "a path in a host": ({"broker": {**REDIS, "host": {"value": "evil/x"}}}, ["spec.broker.host.value"]),
    "a query in a host": ({"broker": {**REDIS, "host": {"value": "evil?x"}}}, ["spec.broker.host.value"]),
    "two hosts": ({"broker": {**REDIS, "host": {"value": "one;two"}}}, ["spec.broker.host.value"]),
    "a variable as a host": ({"broker": {**REDIS, "host": {"value": "$(HOME)"}}}, ["spec.broker.host.value"]),
    "a line break after a host": ({"broker": {**REDIS, "host": {"value": "redis\n"}}}, ["spec.broker.host.value"]),
    "a null byte in a path": ({"broker": {**REDIS, "path": {"value": "a\u0000"}}}, ["spec.broker.path.value"]),
    "a port that is too high": ({"broker": {**REDIS, "port": {"value": 65536}}}, ["spec.broker.port.value", "65535"]),
    "a port as text": ({"broker": {**REDIS, "port": {"value": "6379"}}}, ["spec.broker.port.value", "integer"]),
    "Sentinels in parts": ({"broker": {**REDIS, "transport": "sentinel"}}, ["spec.broker.transport", "sentinel"]),
    "a part of another namespace's Secret": (
        {"broker": {**REDIS, "password": {"secretKeyRef": {**SECRET, "namespace": "kube-system"}}}},
        ["namespace", "unknown field"],
    ),
    # queue names
    "no queue at all": ({"queues": []}, ["spec.queues", "at least 1"]),
    "an empty queue": ({"queues": [""]}, ["spec.queues[0]"]),
    "a quote in a queue": ({"queues": ['fe"eds']}, ["spec.queues[0]", 'fe\\"eds']),
    "a single quote in a queue": ({"queues": ["fe'eds"]}, ["spec.queues[0]", "fe'eds"]),
    "a newline in a queue": ({"queues": ["feeds\nx"]}, ["spec.queues[0]"]),
    "a newline at the end of a queue": ({"queues": ["feeds\n"]}, ["spec.queues[0]"]),
    "unicode in a queue": ({"queues": ["fëeds"]}, ["spec.queues[0]", "fëeds"]),
    "an emoji in a queue": ({"queues": ["🐇"]}, ["spec.queues[0]"]),
    "a null byte in a queue": ({"queues": ["fe\u0000eds"]}, ["spec.queues[0]"]),
    "a comma in a queue": ({"queues": ["a,b"]}, ["spec.queues[0]", "a,b"]),
    "PromQL in a queue": ({"queues": ['x"} or up{a="']}, ["spec.queues[0]"]),
    "a shell in a queue": ({"queues": ["$(reboot)"]}, ["spec.queues[0]", "$(reboot)"]),
    "an option as a queue": ({"queues": ["--pidfile=/x"]}, ["spec.queues[0]"]),
    "an enormous queue name": ({"queues": ["q" * 181]}, ["spec.queues[0]", "180"]),
    "too many queues": ({"queues": [f"q{number}" for number in range(21)]}, ["spec.queues", "20"]),
    "the same queue twice": ({"queues": ["a", "a"]}, ["queues"]),
    # other names
    "a shell in the app": ({"app": "proj; reboot"}, ["spec.app", "proj; reboot"]),
    "an option as the app": ({"app": "--broker=redis://evil"}, ["spec.app"]),
    "a space in the image": ({"image": "proj:1 --privileged"}, ["spec.image"]),
    "an image in capitals": ({"image": "registry.example/Proj:1"}, ["spec.image", "image is registry.example/Proj:1"]),
    "an image with half a digest": ({"image": "proj@sha256:abc"}, ["spec.image", "not the name of an image"]),
    "an app that no import finds": ({"app": "proj..celery"}, ["spec.app", "proj..celery"]),
    "an empty image": ({"image": ""}, ["spec.image"]),
    "an enormous image": ({"image": "a" * 513}, ["spec.image", "512"]),
    "a path as a Secret": (
        {"broker": {"urlFrom": {"secretKeyRef": {"name": "../x", "key": "url"}}}},
        ["spec.broker.urlFrom.secretKeyRef.name"],
    ),
    "a path as a key": (
        {"broker": {"urlFrom": {"secretKeyRef": {"name": "b", "key": "../url"}}}},
        ["spec.broker.urlFrom.secretKeyRef.key"],
    ),
    "a Lua injection in the key prefix": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, "keyPrefix": "a'b"}},
        ["spec.broker.keyPrefix"],
    ),
    "an address as a Prometheus server": (
        {"scaling": {"prometheus": {"server": "http://169.254.169.254"}}},
        ["spec.scaling.prometheus.server"],
    ),
    "an enormous query": (
        {"scaling": {"prometheus": {"query": "x" * 2001}}},
        ["spec.scaling.prometheus.query", "2000"],
    ),
    "a shell as the interpreter": ({"worker": {"python": "sh -c reboot"}}, ["spec.worker.python"]),
    "a task glob with a space": ({"prefork": {"tasks": ["a b"]}}, ["spec.prefork.tasks[0]"]),
    # wrong types
    "a string as a number": ({"replicas": {"max": "many"}}, ["spec.replicas.max", "must be of type integer"]),
    "a number as a string": ({"app": 5}, ["app"]),
    "a fraction of a worker": ({"replicas": {"max": 2.5}}, ["spec.replicas.max", "must be of type integer"]),
    "a map as a list": ({"queues": {"a": "b"}}, ["queues"]),
    "a string as a list": ({"queues": "feeds"}, ["queues"]),
    "a string as a boolean": (
        {"worker": {"securityContext": {"readOnlyRootFilesystem": "yes"}}},
        ["readOnlyRootFilesystem"],
    ),
    "an unknown mode": ({"scaling": {"mode": "turbo"}}, ["spec.scaling.mode", "turbo", '"Manual"']),
    "an unknown agent": ({"agent": "remote"}, ["spec.agent", "remote", '"Installed"']),
    "an unknown policy": (
        {"scaling": {"onMissingMetrics": {"policy": "panic"}}},
        ["spec.scaling.onMissingMetrics.policy", "panic"],
    ),
    # durations and amounts
    "a number as a duration": ({"scaling": {"maxWait": 30}}, ["maxWait"]),
    "a duration without a unit": ({"scaling": {"maxWait": "30"}}, ["spec.scaling.maxWait", "30"]),
    "a negative duration": ({"drain": {"timeout": "-5s"}}, ["spec.drain.timeout", "-5s"]),
    "an enormous duration": ({"drain": {"timeout": "99999999999h"}}, ["spec.drain.timeout"]),
    "a schedule of 166,000 days": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 0 31 2 *", "duration": "999999h999999h999999h999999h"}]}},
        [
            "spec.scaling.schedules[0].duration",
            "scaling.schedules.duration is 999999h",
            "between 1m and 744h",
            "choose a",
        ],
    ),
    "a schedule of no time": (
        {"scaling": {"schedules": [{**CRON, "duration": "0s"}]}},
        ["scaling.schedules.duration is 0s", "between 1m and 744h"],
    ),
    "a schedule of 32 days": (
        {"scaling": {"schedules": [{**CRON, "duration": "744h1ms"}]}},
        ["scaling.schedules.duration is 744h1ms", "between 1m and 744h"],
    ),
    "no wait at all": (
        {"scaling": {"maxWait": "0s"}},
        ["spec.scaling.maxWait", "scaling.maxWait is 0s", "between 1s and 744h", "choose a duration"],
    ),
    "a cooldown of years": ({"scaling": {"cooldown": "99999h"}}, ["scaling.cooldown is 99999h", "between 0s and 744h"]),
    "a drain of years": ({"drain": {"timeout": "999999h"}}, ["drain.timeout is 999999h", "between 0s and 744h"]),
    "a consumer timeout of nothing": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, "consumerTimeout": "0s"}},
        ["broker.consumerTimeout is 0s", "between 1s and 744h"],
    ),
    "a blocked hub of no time": (
        {"hubWatchdog": {"warnAfter": "0ms"}},
        ["hubWatchdog.warnAfter is 0ms", "1ms and 744h"],
    ),
    "a restart for nothing": (
        {"hubWatchdog": {"restartAfter": "0s"}},
        ["hubWatchdog.restartAfter is 0s", "1s and 744h"],
    ),
    "a worker of no age": ({"recycle": {"maxAge": "0s"}}, ["recycle.maxAge is 0s", "between 1s and 744h"]),
    "a soft limit of nothing": (
        {"taskTimeLimits": {"soft": "0s"}},
        ["taskTimeLimits.soft is 0s", "between 1ms and 744h"],
    ),
    "a hard limit of years": (
        {"taskTimeLimits": {"hard": "9999h"}},
        ["taskTimeLimits.hard is 9999h", "between 1ms and 744h"],
    ),
    "a warning after the restart": (
        {"hubWatchdog": {"warnAfter": "2m", "restartAfter": "60s"}},
        ["spec.hubWatchdog.warnAfter", "hubWatchdog.warnAfter is 2m", "restartAfter (60s)", "lower warnAfter"],
    ),
    "a soft limit above the hard one": (
        {"taskTimeLimits": {"soft": "1m", "hard": "45s"}},
        [
            "spec.taskTimeLimits.soft",
            "taskTimeLimits.soft is 1m",
            "taskTimeLimits.hard (45s)",
            "lower soft or raise hard",
        ],
    ),
    "a soft limit at the hard one": ({"taskTimeLimits": {"soft": "1m", "hard": "60s"}}, ["taskTimeLimits.soft is 1m"]),
    "less memory than Python needs": (
        {"recycle": {"maxMemory": "1"}},
        ["spec.recycle.maxMemory", "recycle.maxMemory is 1,", "write 16Mi or more"],
    ),
    "priority steps out of order": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, "prioritySteps": [0, 6, 3]}},
        ["spec.broker.prioritySteps", "is [0, 6, 3]", "ascending order"],
    ),
    "a priority step twice": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, "prioritySteps": [0, 3, 3]}},
        ["is [0, 3, 3]", "each step once"],
    ),
    "requests above limits": (
        {"worker": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}}},
        [
            "spec.worker.resources.requests",
            'requests is {"cpu":"2"}, above resources.limits ({"cpu":"1500m"})',
            "lower the request",
        ],
    ),
    "requests above limits in the companion": (
        {"prefork": {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": 5}}}},
        ["spec.prefork.resources.requests", 'requests is {"memory":"1Gi"}, above'],
    ),
    "a limit of nothing": (
        {"worker": {"resources": {"limits": {"cpu": 0}}}},
        ["spec.worker.resources.limits", 'resources.limits is {"cpu":0}', "0 means no limit", "remove what is 0"],
    ),
    "a resource that does not exist": (
        {"worker": {"resources": {"limits": {"gpu": 1}}}},
        ["spec.worker.resources", "gpu", "DOMAIN/NAME", "correct the name"],
    ),
    "space that is no quantity": (
        {"worker": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "lots"}}]}},
        ["spec.worker.volumes[0].emptyDir.sizeLimit", "lots"],
    ),
    "a wrong memory size": ({"recycle": {"maxMemory": "lots"}}, ["spec.recycle.maxMemory", "lots"]),
    "negative threads": ({"greenThreads": {"min": -1}}, ["spec.greenThreads.min", "-1"]),
    "no threads": ({"greenThreads": {"max": 0}}, ["spec.greenThreads.max"]),
    "enormous threads": ({"greenThreads": {"max": 1_000_000}}, ["spec.greenThreads.max", "10000"]),
    "threads beyond an integer": ({"greenThreads": {"max": 10**30}}, ["greenThreads"]),
    "negative replicas": ({"replicas": {"min": -1}}, ["spec.replicas.min", "-1"]),
    "enormous replicas": ({"replicas": {"max": 1_000_000}}, ["spec.replicas.max", "1000"]),
    "no worker ever": ({"replicas": {"max": 0}}, ["spec.replicas.max"]),
    "negative manual replicas": ({"manualReplicas": -1}, ["spec.manualReplicas"]),
    "a negative CPU limit": ({"worker": {"resources": {"limits": {"cpu": -1}}}}, ["spec.worker.resources.limits"]),
    "a wrong CPU limit": ({"worker": {"resources": {"limits": {"cpu": "fast"}}}}, ["spec.worker.resources.limits"]),
    "a priority step above 255": (
        {"broker": {"urlFrom": {"secretKeyRef": SECRET}, "prioritySteps": [256]}},
        ["spec.broker.prioritySteps[0]"],
    ),
    "a schedule without five fields": (
        {
            "scaling": {
                "schedules": [
                    {**CRON, "cron": "every day at noon please"},
                    {**CRON, "name": "nights", "cron": "@daily"},
                ]
            }
        },
        ["spec.scaling.schedules[1].cron"],
    ),
    "minute 61": (
        {"scaling": {"schedules": [{**CRON, "cron": "61 * * * *"}]}},
        [
            "spec.scaling.schedules[0].cron",
            "scaling.schedules.cron is 61 * * * *",
            "whose minute (61) is none",
            "write 0-59",
        ],
    ),
    "hour 24": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 8,24 * * *"}]}},
        [
            "spec.scaling.schedules[0].cron",
            "scaling.schedules.cron is 0 8,24 * * *",
            "whose hour (8,24) is none",
            "write 0-23",
        ],
    ),
    "day 32": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 0 1-32 * *"}]}},
        [
            "spec.scaling.schedules[0].cron",
            "scaling.schedules.cron is 0 0 1-32 * *",
            "whose day of month (1-32) is none",
        ],
    ),
    "month 13": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 0 1 13 *"}]}},
        ["spec.scaling.schedules[0].cron", "scaling.schedules.cron is 0 0 1 13 *", "whose month (13) is none"],
    ),
    "a day of the week that is none": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 0 * * noday"}]}},
        [
            "spec.scaling.schedules[0].cron",
            "scaling.schedules.cron is 0 0 * * noday",
            "whose day of week (noday) is none",
        ],
    ),
    "a step of nothing": (
        {"scaling": {"schedules": [{**CRON, "cron": "*/0 * * * *"}]}},
        ["spec.scaling.schedules[0].cron", "scaling.schedules.cron is */0 * * * *", "whose minute (*/0) is none"],
    ),
    # the worker's overlay
    "a value and a source of it": (
        {"worker": {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}},
        ["spec.worker.env[0]", "worker.env sets value and valueFrom of A", "keep one"],
    ),
    "two sources of one value": (
        {
            "worker": {
                "env": [
                    {
                        "name": "A",
                        "valueFrom": {
                            "fieldRef": {"fieldPath": "metadata.name"},
                            "secretKeyRef": {"name": "a", "key": "b"},
                        },
                    }
                ]
            }
        },
        ["spec.worker.env[0].valueFrom", "worker.env.valueFrom sets 2 of", "keep one"],
    ),
    "no source": ({"worker": {"env": [{"name": "A", "valueFrom": {}}]}}, ["worker.env.valueFrom sets 0 of"]),
    "variables from nowhere": ({"worker": {"envFrom": [{"prefix": "A"}]}}, ["spec.worker.envFrom[0]", "sets 0 of"]),
    "a field of the pod that does not exist": (
        {"worker": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.secrets"}}}]}},
        ["spec.worker.env[0].valueFrom.fieldRef.fieldPath", "spec.secrets"],
    ),
    "a volume with two sources": (
        {"worker": {"volumes": [{"name": "v", "emptyDir": {}, "configMap": {"name": "x"}}]}},
        ["spec.worker.volumes[0]", "worker.volumes sets 2 of", "keep one"],
    ),
    "a volume with none": ({"worker": {"volumes": [{"name": "v"}]}}, ["worker.volumes sets 0 of"]),
    "a volume of the operator's": (
        {"worker": {"volumes": [{"name": "greenfleet-agent", "emptyDir": {}}]}},
        ["spec.worker.volumes[0].name", "worker.volumes has greenfleet-agent", "choose another name"],
    ),
    "a mount without its volume": (
        {"worker": {"volumeMounts": [{"name": "missing", "mountPath": "/x"}]}},
        ["spec.worker.volumeMounts", 'names ["missing"]', "worker.volumes does not have"],
    ),
    "a mount over the runtime": (
        {"worker": {"volumes": [VOLUME], "volumeMounts": [{"name": "v", "mountPath": "/greenfleet/lib"}]}},
        ["spec.worker.volumeMounts[0].mountPath", "is /greenfleet/lib", "choose another path"],
    ),
    "a mount over the pool's own files": (
        {"worker": {"volumes": [VOLUME], "volumeMounts": [{"name": "v", "mountPath": "/etc/greenfleet"}]}},
        ["is /etc/greenfleet", "the worker runtime's own"],
    ),
    "a mount that is over the runtime in the end": (
        {"worker": {"volumes": [VOLUME], "volumeMounts": [{"name": "v", "mountPath": "/tmp/../greenfleet"}]}},
        ["spec.worker.volumeMounts[0].mountPath", "is /tmp/../greenfleet", "write it without them"],
    ),
    "a path out of the volume": (
        {"worker": {"volumes": [VOLUME], "volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "a/../../b"}]}},
        ["spec.worker.volumeMounts[0].subPath", "must stay inside the volume", "write a relative path"],
    ),
    "a toleration with a value that Exists has no use for": (
        {"worker": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
        ["spec.worker.tolerations[0].value", "is b with operator Exists", "remove value"],
    ),
    "a toleration of everything that is equal": (
        {"worker": {"tolerations": [{"value": "b"}]}},
        ["spec.worker.tolerations[0].key", "without key", "name a key"],
    ),
    "seconds without NoExecute": (
        {"worker": {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}]}},
        ["spec.worker.tolerations[0].tolerationSeconds", "is 5", "set the effect"],
    ),
    "domains that need not exist": (
        {
            "worker": {
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}
                ]
            }
        },
        ["spec.worker.topologySpreadConstraints[0].minDomains", "is 2", "remove minDomains"],
    ),
    "a selector that compares with nothing": (
        {
            "worker": {
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "zone",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]},
                    }
                ]
            }
        },
        ["labelSelector.matchExpressions[0].values", "0 entries with operator In"],
    ),
    "a node with more than a word": (
        {
            "worker": {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["many"]}]}
                            ]
                        }
                    }
                }
            }
        },
        ["matchExpressions[0].values", "with operator Gt", "write one integer"],
    ),
    "root": ({"worker": {"securityContext": {"runAsUser": 0}}}, ["spec.worker.securityContext.runAsUser"]),
    "a user in words": (
        {"worker": {"securityContext": {"runAsUser": "image"}}},
        ["spec.worker.securityContext.runAsUser", "runAsUser is the text image", "write a number", "or Image"],
    ),
    "a user in quotes": (
        {"worker": {"securityContext": {"runAsUser": "1000"}}},
        ["runAsUser is the text 1000", "without quotes"],
    ),
    "an enormous user": (
        {"worker": {"securityContext": {"runAsUser": 2**31}}},
        ["spec.worker.securityContext.runAsUser", "2147483647"],
    ),
    "a group in words": (
        {"worker": {"securityContext": {"runAsGroup": "wheel"}}},
        ["spec.worker.securityContext.runAsGroup", "runAsGroup is the text wheel", "or Image"],
    ),
    "the volumes' group of the image": (
        {"worker": {"securityContext": {"fsGroup": "Image"}}},
        ["spec.worker.securityContext.fsGroup", "fsGroup is the text Image", "or None"],
    ),
    "a group without a user": (
        {"worker": {"securityContext": {"runAsUser": "Image", "runAsGroup": 1000}}},
        ["spec.worker.securityContext.runAsGroup", "runAsGroup is 1000", "without a user", "remove runAsGroup"],
    ),
    "a reserved variable": (
        {"worker": {"env": [{"name": "GREENWORKER_POOL", "value": "other/pool"}]}},
        ["spec.worker.env[0].name", "worker.env sets GREENWORKER_POOL", "use broker"],
    ),
    "the broker as a variable": (
        {"worker": {"env": [{"name": "CELERY_BROKER_URL", "value": "redis://:hunter2@evil"}]}},
        ["spec.worker.env[0].name", "worker.env sets CELERY_BROKER_URL"],
    ),
    "the broker's other URL as a variable": (
        {"worker": {"env": [{"name": "CELERY_BROKER_READ_URL", "value": "redis://:hunter2@evil"}]}},
        ["spec.worker.env[0].name", "worker.env sets CELERY_BROKER_READ_URL", "use broker"],
    ),
    "an option as a variable": (
        {"worker": {"env": [{"name": "CELERY_WORKER_EXCLUDE_QUEUES", "value": "feeds"}]}},
        ["spec.worker.env[0].name", "worker.env sets CELERY_WORKER_EXCLUDE_QUEUES"],
    ),
    "a variable name with a newline": ({"worker": {"env": [{"name": "A\nB"}]}}, ["spec.worker.env[0].name"]),
    "a relative mount": (
        {"worker": {"volumeMounts": [{"name": "v", "mountPath": "etc"}]}},
        ["spec.worker.volumeMounts[0].mountPath"],
    ),
    "an annotation of the operator's": (
        {"worker": {"annotations": {"greenfleet.io/threads": "9999"}}},
        ["spec.worker.annotations", "operator's own", "remove it"],
    ),
    "a label of the operator's": (
        {"worker": {"labels": {"greenfleet.io/pool": "other"}}},
        ["spec.worker.labels", "Greenfleet sets itself", "use a name of your own"],
    ),
    "a label that is none": ({"worker": {"labels": {"team": "a b"}}}, ["spec.worker.labels", "a b"]),
    "a label of 64 characters": ({"worker": {"labels": {"team": "a" * 64}}}, ["spec.worker.labels", "63"]),
    "an affinity that is none": ({"worker": {"affinity": {"nonsense": True}}}, ["affinity.nonsense", "unknown field"]),
    "a toleration of the wrong type": (
        {"worker": {"tolerations": [{"key": 5}]}},
        ["spec.worker.tolerations[0].key", "must be of type string"],
    ),
    "a spread without its key": (
        {"worker": {"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]}},
        ["spec.worker.topologySpreadConstraints[0].topologyKey", "Required value"],
    ),
    # arguments that go around a field
    **{
        f"the argument {argument}": (
            {"worker": {"extraArgs": ["--loglevel=INFO", *argument.split()]}},
            ["spec.worker.extraArgs[1]", f"worker.extraArgs has {argument.split()[0]},", "remove it, and", fix],
        )
        for argument, fix in {
            "-A other": "set app",
            "--app=other": "set app",
            "-b redis://evil": "broker.urlFrom, or broker.transport",
            "--broker=redis://evil": "broker.urlFrom, or broker.transport",
            "--result-backend redis://evil": "resultBackend.urlFrom",
            "-Q x": "set queues",
            "-Qx": "set queues",
            "-EQx": "set queues",
            "--queues=x": "set queues",
            "--queues x": "set queues",
            "-X x": "set queues",
            "--exclude-queues=x": "set queues",
            "-P solo": "prefork.tasks",
            "--pool=solo": "prefork.tasks",
            "-c 5": "greenThreads",
            "-c5": "greenThreads",
            "--concurrency=5": "greenThreads",
            "--autoscale=9,1": "replicas",
            "-n me": "worker.labels",
            "--hostname=me": "worker.labels",
            "--prefetch-multiplier 9": "set that",
            "--time-limit=9": "taskTimeLimits.hard",
            "--soft-time-limit 9": "taskTimeLimits.soft",
            "--max-tasks-per-child=9": "recycle.maxTasks",
            "--max-memory-per-child=9": "recycle.maxTasks or maxMemory",
            "--uid=0": "runAsUser",
            "--gid=0": "runAsGroup",
            "-D": "foreground",
            "--detach": "foreground",
            "-B": "celery beat",
            "-EB": "celery beat",
            "--beat": "celery beat",
            "--purge": "celery purge",
            "--discard": "celery purge",
            "--workdir=/": "PYTHONPATH",
            "--config=x": "CELERY_CONFIG_MODULE",
            "--loader=x": "CELERY_LOADER",
            "broker_url=redis://evil": "configure the app",
            ".queues=x": "configure the app",
        }.items()
    },
    # entries of a list that share a key
    "a volume twice": (
        {"worker": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}},
        ["spec.worker.volumes[1]: Duplicate value", '"name":"v"'],
    ),
    "a variable twice": (
        {"worker": {"env": [{"name": "LEVEL", "value": "1"}, {"name": "LEVEL", "value": "2"}]}},
        ["spec.worker.env[1]: Duplicate value", '"name":"LEVEL"'],
    ),
    "two volumes at one place": (
        {
            "worker": {
                "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}],
                "volumeMounts": [{"name": "a", "mountPath": "/data"}, {"name": "b", "mountPath": "/data"}],
            }
        },
        ["spec.worker.volumeMounts[1]: Duplicate value", '"mountPath":"/data"'],
    ),
    "two schedules of one name": (
        {"scaling": {"schedules": [CRON, {**CRON, "cron": "0 20 * * *"}]}},
        ["spec.scaling.schedules[1]: Duplicate value", '"name":"office-hours"'],
    ),
    "a schedule without a name": (
        {"scaling": {"schedules": [{key: value for key, value in CRON.items() if key != "name"}]}},
        ["spec.scaling.schedules[0].name", "Required value"],
    ),
    "a task twice": (
        {"prefork": {"tasks": ["proj.resize", "proj.resize"]}},
        ["spec.prefork.tasks[1]: Duplicate value"],
    ),
    # fields that had another name before
    "a Secret by its old name": ({"broker": {"secretRef": SECRET}}, ['unknown field "spec.broker.secretRef"']),
    "time limits by their old name": ({"limits": {"hard": "45s"}}, ['unknown field "spec.limits"']),
    "a watchdog by its old name": ({"blocking": {"warnAfter": "1s"}}, ['unknown field "spec.blocking"']),
    "an activation by its old name": ({"scaling": {"activation": 5}}, ['unknown field "spec.scaling.activation"']),
    "missing metrics by their old name": ({"scaling": {"whenBlind": {}}}, ['unknown field "spec.scaling.whenBlind"']),
    "a mode in lower case": (
        {"scaling": {"mode": "auto"}},
        ['spec.scaling.mode: Unsupported value: "auto"', '"Auto"', '"DryRun"'],
    ),
    "an agent in lower case": (
        {"agent": "inject"},
        ['spec.agent: Unsupported value: "inject"', '"Inject"', '"Installed"'],
    ),
    "a pause in its old form": ({"scaling": {"pause": {"in": True}}}, ['unknown field "spec.scaling.pause.in"']),
    "an unknown pause": (
        {"scaling": {"pause": "in"}},
        ['spec.scaling.pause: Unsupported value: "in"', '"In"', '"Out"', '"All"'],
    ),
    # the network
    "a network without a way out": ({"network": {"egress": []}}, ["spec.network.egress", "at least 1"]),
    "a host as an address": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "redis.shop.svc"}}]}]}},
        ["spec.network.egress[0].to[0].ipBlock.cidr", "redis.shop.svc"],
    ),
    "an address and a selector": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}},
        ["network.egress.to", "one entry for the addresses"],
    ),
    "nobody at the other end": (
        {"network": {"egress": [{"to": [{}]}]}},
        ["network.egress.to", "neither"],
    ),
    "an address with too many bits": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}},
        ["ipBlock.cidr", "ipBlock has 10.0.0.0/33", "no range of addresses", "write CIDR"],
    ),
    "an exception that is elsewhere": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}}]}]}},
        ["ipBlock.except", "not inside of cidr (10.0.0.0/8)"],
    ),
    "a port that is none": ({"network": {"egress": [{"ports": [{"port": 65536}]}]}}, ["ports[0].port", "65535"]),
    "a range of ports that ends before it begins": (
        {"network": {"egress": [{"ports": [{"port": 9000, "endPort": 8000}]}]}},
        ["network.egress.ports.endPort is 8000", "raise endPort"],
    ),
    "two hundred and one variables": (
        {"worker": {"env": [{"name": f"V{number}"} for number in range(201)]}},
        ["spec.worker.env", "200"],
    ),
}


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    made = make_world("bad", runs=only_exporters)
    made.operator().start()
    return made


@pytest.fixture(scope="module")
def quiet(make_world: WorldMaker) -> Namespace:
    """A namespace without an operator: only the API server speaks."""
    return make_world("refused", runs=lambda pod: False).namespace


def refusal(namespace: Namespace, name: str, spec: dict[str, Any]) -> str:
    minimal = {"app": "proj", "image": "proj:1", "broker": {"urlFrom": {"secretKeyRef": SECRET}}, "queues": ["feeds"]}
    body = {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {"name": name},
        "spec": {key: value for key, value in {**minimal, **spec}.items() if value is not None},
    }
    with pytest.raises(Refused) as refused:  # as `kubectl apply` sends it
        namespace.api.ask("POST", namespace.path("greenworkerpools"), body, fieldValidation="Strict")
    assert refused.value.status < 500, refused.value
    return refused.value.message


def test_the_table_of_bad_input_is_long() -> None:
    assert len(REFUSED) + len(STALLED) >= 100


@pytest.mark.parametrize("case", REFUSED)
def test_the_api_server_refuses_it_and_names_the_field(case: str, quiet: Namespace) -> None:
    spec, parts = REFUSED[case]
    message = refusal(quiet, "pool", spec)
    for part in parts:
        assert part in message
    assert quiet.find("greenworkerpools", "pool") is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a" * 51, "metadata.name has 51 characters"),
        ("a" * 63, "choose a shorter name"),
        ("a" * 253, "metadata.name has 253 characters"),
        ("a" * 254, "must be no more than 253"),
        ("with.dot", "use hyphens"),
        ("UPPER", "lowercase"),
        ("-dash", "must start"),
    ],
)
def test_a_name_that_its_pods_could_not_have_is_refused(name: str, part: str, quiet: Namespace) -> None:
    assert part in refusal(quiet, name, {})


def test_the_longest_name_that_is_allowed_works(world: World) -> None:
    name = "a" * 50
    world.namespace.apply_pool(name, queues=["longest"], replicas={"min": 1, "max": 1}, prefork={})
    eventually(lambda: world.namespace.pods(name), "a pod of it")
    world.namespace.await_condition(name, "Stalled", "False")
    world.namespace.delete_pool(name, wait=False)


STALLED: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "unknown Prometheus server": (
        {"scaling": {"prometheus": {"server": "elsewhere"}}},
        "UnknownPrometheusServer",
        ["scaling.prometheus.server is 'elsewhere'", "ask the administrator"],
    ),
    "unknown source": (
        {"scaling": {"prometheus": {"source": "guesswork"}}},
        "UnknownSource",
        ["scaling.prometheus.source is 'guesswork'", "use one of"],
    ),
    "own query": (
        {"scaling": {"prometheus": {"query": 'sum(up) or vector(0) # "'}}},
        "QueryNotAllowed",
        ["scaling.prometheus.query is set", "did not allow", "remove it"],
    ),
    "a range that ends before it begins": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 18-8 * * *"}]}},
        "InvalidSchedule",
        ["scaling.schedules[0].cron is '0 18-8 * * *'", "outside 0-23"],
    ),
    "a cron that never fires": (
        {"scaling": {"schedules": [{**CRON, "cron": "0 0 31 2 *"}]}},
        "InvalidSchedule",
        ["scaling.schedules[0].cron is '0 0 31 2 *'", "never opens"],
    ),
    "a time zone that is none": (
        {"scaling": {"schedules": [{**CRON, "timezone": "Mars/Olympus"}]}},
        "InvalidSchedule",
        ["timezone is 'Mars/Olympus'", "Europe/Berlin"],
    ),
    "a service account that does not exist": (
        {"worker": {"serviceAccountName": "crawler"}, "replicas": {"min": 1}},
        "PodsRefused",
        ["worker.serviceAccountName is 'crawler'", "no such ServiceAccount", "create it"],
    ),
    "a priority class that does not exist": (
        {"worker": {"priorityClassName": "urgent"}, "replicas": {"min": 1}},
        "PodsRefused",
        ["worker.priorityClassName", "is 'urgent'", "no such PriorityClass", "correct the name"],
    ),
    "a broker URL in a refused value": (
        {
            "worker": {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {
                                    "matchFields": [
                                        {"key": "metadata.name", "operator": "In", "values": ["redis://:hunter2@redis"]}
                                    ]
                                }
                            ]
                        }
                    }
                }
            }
        },
        "Refused",
        ["***@"],
    ),
}


@pytest.fixture
def pool(world: World) -> Iterator[str]:
    name = fresh_name("pool")
    yield name
    world.namespace.delete_pool(name, wait=False)


@pytest.mark.parametrize("case", STALLED)
def test_what_only_the_operator_sees_is_stalled_in_four_parts(case: str, world: World, pool: str) -> None:
    spec, reason, parts = STALLED[case]
    shop = world.namespace
    shop.apply_pool(pool, **spec)
    said = shop.await_condition(pool, "Stalled", "True", reason)
    for part in parts:
        assert part in said["message"]
    assert shop.condition(pool, "Ready")["status"] == "False"
    assert "hunter2" not in str(shop.pool(pool)["status"])
    eventually(lambda: shop.events(pool, reason), "an Event says so too")
    assert "hunter2" not in str(shop.events(pool))
    assert "hunter2" not in world.operators[0].text()


def test_a_pool_that_is_mended_recovers(world: World, pool: str) -> None:
    shop = world.namespace
    shop.apply_pool(pool, scaling={"prometheus": {"server": "elsewhere"}})
    shop.await_condition(pool, "Stalled", "True", "UnknownPrometheusServer")
    shop.apply_pool(pool)
    shop.await_condition(pool, "Stalled", "False")
    shop.await_condition(pool, "Ready", "True")


def test_two_pools_on_one_queue_are_both_stalled_and_a_third_is_unharmed(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("third", queues=["unshared"])
    shop.await_condition("third", "Ready", "True")
    shop.apply_pool("first", queues=["shared", "own"])
    shop.await_condition("first", "Stalled", "False")
    shop.apply_pool("second", queues=["shared"])
    for one, other in (("first", "second"), ("second", "first")):
        said = shop.await_condition(one, "Stalled", "True", "QueueConflict")
        for part in ("spec.queues has 'shared'", f"the pool {other}", "give each queue to one pool"):
            assert part in said["message"]
    assert shop.deployment("first") is not None, "workers that run are not taken away"
    after = {one["type"]: one["status"] for one in shop.pool("third")["status"]["conditions"]}
    assert (after["Ready"], after["Stalled"]) == ("True", "False")
    shop.delete_pool("second", wait=False)
    shop.await_condition("first", "Stalled", "False")
    for name in ("first", "third"):
        shop.delete_pool(name, wait=False)


def test_one_queue_name_on_two_brokers_is_two_queues(world: World) -> None:
    """What the operator cannot see is whether two Secrets name the same broker: it reads neither."""
    shop = world.namespace
    shop.secret("broker-of-its-own", url=world.redis.url)
    shop.apply_pool("here", queues=["both"])
    shop.apply_pool(
        "there", queues=["both"], broker={"urlFrom": {"secretKeyRef": {"name": "broker-of-its-own", "key": "url"}}}
    )
    for name in ("here", "there"):
        shop.await_condition(name, "Ready", "True")
        assert shop.condition(name, "Stalled")["status"] == "False"
    for name in ("here", "there"):
        shop.delete_pool(name, wait=False)


def test_a_quota_that_leaves_no_room_is_stalled_and_more_room_heals_the_pool(make_world: WorldMaker) -> None:
    world = make_world("quota", runs=only_exporters)
    shop = world.namespace
    quota = f"/api/v1/namespaces/{shop.name}/resourcequotas"
    shop.api.create(quota, {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}})
    world.operator().start()
    shop.apply_pool("crowded", replicas={"min": 2, "max": 2})
    said = shop.await_condition("crowded", "Stalled", "True", "PodsRefused")
    for part in ("quota", "worker.resources", "replicas.max"):
        assert part in said["message"]
    shop.api.merge(f"{quota}/small", {"spec": {"hard": {"pods": "9"}}})
    shop.await_condition("crowded", "Stalled", "False", seconds=60)


def test_a_missing_secret_is_stalled_and_its_arrival_heals_the_pool(world: World, pool: str) -> None:
    shop = world.namespace
    shop.apply_pool(pool, broker={"urlFrom": {"secretKeyRef": {"name": f"{pool}-late", "key": "url"}}})
    said = shop.await_condition(pool, "Stalled", "True", "ReferenceMissing")
    assert f"'{pool}-late'" in said["message"]
    assert "create it" in said["message"]
    shop.secret(f"{pool}-late", url=world.redis.url)
    shop.await_condition(pool, "Stalled", "False")
    shop.await_condition(pool, "Ready", "True")


def test_a_broker_url_is_in_no_log_event_status_or_metric(world: World, pool: str) -> None:
    shop = world.namespace
    shop.secret(f"{pool}-url", url="redis://user:hunter2@127.0.0.1:1/0")
    shop.apply_pool(
        pool, broker={"urlFrom": {"secretKeyRef": {"name": f"{pool}-url", "key": "url"}}}, replicas={"min": 1, "max": 1}
    )
    shop.await_condition(pool, "Ready", "False", "ExporterNotReady")
    operator = world.operators[0]
    seen = [operator.text(), operator.get("/metrics"), str(shop.events(pool)), str(shop.pool(pool).get("status"))]
    seen += [str(shop.deployment(pool)), str(shop.find("configmaps", f"{pool}-greenfleet"))]
    seen.append(operator.get(f"/api/v1/pools/{shop.name}/{pool}/why"))
    for text in seen:
        assert "hunter2" not in text
