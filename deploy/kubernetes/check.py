"""Checks the Kubernetes manifest without a cluster; deploy/check calls it.

Three sets of rules: the schemas of the oldest and the newest Kubernetes that the manifest is for (strict, so an unknown
field is an error), the references between the objects, and what Evoke needs of them (its configuration, its time to
stop, the least rights). Then it breaks the manifest in ways that each rule exists for and demands to hear about it: a
checker that lets those pass is itself the failure.
"""

import copy
import pathlib
import re
import sys
import tomllib

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy/kubernetes/evoke.yaml"
CONFIG = ROOT / "deploy/evoke.yaml"
# The oldest is the first that has preStop.sleep without a feature gate.
VERSIONS = ["1.30.0", "1.37.0"]
NAMESPACE = "openfaas"
# What the last flush may take after shutdown.grace is over.
FLUSH_SECONDS = 10


class UniqueKeys(yaml.SafeLoader):
    """A loader for which a repeated key is an error; YAML's own answer is to drop the first one silently."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(text):
    return [document for document in yaml.load_all(text, UniqueKeys) if document is not None]


def seconds(duration):
    """A duration as the configuration writes it, whole seconds or minutes."""
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def schema_problems(documents):
    for document in documents:
        name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(step) for step in error.path)
                yield f"{name} against {version}: {where}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                # The command of the same package only warns here, so a typing error in `kind` would pass.
                yield f"{name} against {version}: {error.message}"


def port_of(ports, wanted):
    """The number of a port given by name or number, or None."""
    numbers = {port["name"]: port["containerPort"] for port in ports} | {p["containerPort"]: p["containerPort"] for p in ports}
    return numbers.get(wanted)


def rule_problems(documents, config_text, version):
    """What a schema cannot see. Every message names the object or field at fault."""
    objects = {}
    for document in documents:
        key = (document["kind"], document["metadata"]["name"])
        if key in objects:
            yield f"{key} is there twice"
        objects[key] = document
        if document["metadata"].get("namespace") != NAMESPACE:
            yield f"{key}: the namespace is not {NAMESPACE}"

    config_map = objects["ConfigMap", "evoke"]["data"]
    if config_map.get("evoke.yaml") != config_text:
        yield "the ConfigMap's evoke.yaml differs from deploy/evoke.yaml"
    config = load(config_text)[0]

    stateful = objects["StatefulSet", "evoke"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    ports = container["ports"]

    # The references between the objects.
    def selects(selector):
        return selector and all(labels.get(key) == value for key, value in selector.items())

    if not selects(stateful["selector"]["matchLabels"]):
        yield "the StatefulSet's selector does not match its own pods"
    if not selects(objects["PodDisruptionBudget", "evoke"]["spec"]["selector"]["matchLabels"]):
        yield "the PodDisruptionBudget's selector does not match the pods"
    for name in ("evoke", "evoke-headless"):
        service = objects["Service", name]["spec"]
        if not selects(service["selector"]):
            yield f"Service {name}: its selector does not match the pods"
        for port in service["ports"]:
            if port_of(ports, port["targetPort"]) != port["port"]:
                yield f"Service {name}: port {port['port']} does not lead to the container's port of that number"
    if objects["Service", stateful["serviceName"]]["spec"].get("clusterIP") != "None":
        yield "serviceName names a service that is not headless"
    if ("ServiceAccount", pod["serviceAccountName"]) not in objects:
        yield "serviceAccountName names no account of this manifest"
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    for path, mount in mounts.items():
        if mount["name"] not in volumes:
            yield f"{path}: there is no volume {mount['name']}"
    for volume in pod["volumes"]:
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in objects:
            yield f"volume {volume['name']}: there is no such ConfigMap"

    # The configuration and the pod agree.
    listen = {key: int(address.rsplit(":", 1)[1]) for key, address in config["listen"].items()}
    if any(address.startswith(("127.", "localhost", "[::1]")) for address in config["listen"].values()):
        yield "listen: a loopback address cannot be reached from outside the pod"
    if {port["name"]: port["containerPort"] for port in ports} != listen:
        yield f"the container's ports are not those of listen: {listen}"
    if stateful["template"]["metadata"]["annotations"].get("prometheus.io/port") != str(listen["metrics"]):
        yield "prometheus.io/port is not the port of listen.metrics"
    if stateful["template"]["metadata"]["annotations"].get("prometheus.io/scrape") != "true":
        yield "prometheus.io/scrape is not true"
    store = config["store"]["embedded"]["path"]
    data = stateful["volumeClaimTemplates"][0]["metadata"]["name"]
    if not any(mount["name"] == data and store.startswith(path + "/") for path, mount in mounts.items()):
        yield f"store.embedded.path {store} is not a directory below the claimed volume"
    for part in ("gateway", "api"):
        for key, path in config[part]["credentials"].items():
            if not any(path.startswith(mount + "/") for mount in mounts):
                yield f"{part}.credentials.{key} {path} is below no mount"
    if f"/etc/evoke/{next(iter(config_map))}" not in container["args"] or "/etc/evoke" not in mounts:
        yield "the arguments do not name the mounted configuration"

    # Probes, and the time to stop.
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        get = container[probe]["httpGet"]
        if get["path"] != path or port_of(ports, get["port"]) != listen["http"]:
            yield f"{probe} does not ask {path} on the port of listen.http"
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pause + seconds(config["shutdown"]["grace"]) + FLUSH_SECONDS
    if pod["terminationGracePeriodSeconds"] < needed:
        yield f"terminationGracePeriodSeconds is less than preStop, shutdown.grace and the last flush need: {needed}"

    # The least rights.
    wanted = [
        (pod, "automountServiceAccountToken", False),
        (pod, "enableServiceLinks", False),
        (objects["ServiceAccount", "evoke"], "automountServiceAccountToken", False),
        (pod["securityContext"], "runAsNonRoot", True),
        (pod["securityContext"], "runAsUser", 65532),
        (pod["securityContext"], "fsGroup", 65532),
        (pod["securityContext"], "fsGroupChangePolicy", "OnRootMismatch"),
        (pod["securityContext"], "seccompProfile", {"type": "RuntimeDefault"}),
        (container["securityContext"], "allowPrivilegeEscalation", False),
        (container["securityContext"], "readOnlyRootFilesystem", True),
        (container["securityContext"], "capabilities", {"drop": ["ALL"]}),
    ]
    for holder, key, value in wanted:
        if holder.get(key) != value:
            yield f"{key} is {holder.get(key)!r}, not {value!r}"
    if "memory" not in container["resources"]["limits"] or "memory" not in container["resources"]["requests"]:
        yield "the container has no bound on its memory"
    if stateful["replicas"] != 1:
        yield "the embedded store is for one replica"
    if container["image"].rpartition(":")[2] != version:
        yield f"the image's tag is not the workspace's version {version}"


def problems(documents, config_text, version):
    found = list(schema_problems(documents))
    # The rules read fields that only a manifest of the right shape is sure to have.
    return found or list(rule_problems(documents, config_text, version))


def breakages():
    """Ways to break a good manifest, and words that the complaint about each must hold."""

    def pod(objects):
        return objects["StatefulSet", "evoke"]["spec"]["template"]["spec"]

    def container(objects):
        return pod(objects)["containers"][0]

    return [
        ("replica", lambda o: o["StatefulSet", "evoke"]["spec"].update(replica=1)),
        ("replicas", lambda o: o["StatefulSet", "evoke"]["spec"].update(replicas="one")),
        ("readOnlyRootFileSystem", lambda o: container(o)["securityContext"].update(readOnlyRootFileSystem=True)),
        ("initialDelay", lambda o: container(o)["livenessProbe"].update(initialDelay=3)),
        ("Statefulset", lambda o: o["StatefulSet", "evoke"].update(kind="Statefulset2")),
        ("ConfigMap's evoke.yaml differs", lambda o: o["ConfigMap", "evoke"]["data"].update({"evoke.yaml": "listen: {}\n"})),
        ("terminationGracePeriodSeconds", lambda o: pod(o).update(terminationGracePeriodSeconds=30)),
        ("Service evoke: its selector", lambda o: o["Service", "evoke"]["spec"].update(selector={"app": "evok"})),
        ("does not lead to", lambda o: o["Service", "evoke"]["spec"]["ports"][0].update(targetPort="metrics")),
        ("there is no volume", lambda o: container(o)["volumeMounts"][0].update(name="date")),
        ("not a directory below the claimed volume", lambda o: container(o)["volumeMounts"][0].update(mountPath="/data")),
        ("readinessProbe", lambda o: container(o)["readinessProbe"]["httpGet"].update(path="/ready")),
        ("prometheus.io/port", lambda o: o["StatefulSet", "evoke"]["spec"]["template"]["metadata"]["annotations"].update({"prometheus.io/port": "8090"})),
        ("enableServiceLinks", lambda o: pod(o).pop("enableServiceLinks")),
        ("runAsNonRoot", lambda o: pod(o)["securityContext"].pop("runAsNonRoot")),
        ("capabilities", lambda o: container(o)["securityContext"].pop("capabilities")),
        ("workspace's version", lambda o: container(o).update(image="evoke:latest")),
        ("namespace", lambda o: o["PodDisruptionBudget", "evoke"]["metadata"].update(namespace="default")),
    ]


def main():
    config_text = CONFIG.read_text()
    documents = load(MANIFEST.read_text())
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]

    found = problems(documents, config_text, version)
    for problem in found:
        print(f"{MANIFEST.relative_to(ROOT)}: {problem}", file=sys.stderr)
    if found:
        return 1

    for words, change in breakages():
        broken = copy.deepcopy(documents)
        change({(document["kind"], document["metadata"]["name"]): document for document in broken})
        heard = problems(broken, config_text, version)
        if not any(words.lower() in problem.lower() for problem in heard):
            print(f"{pathlib.Path(__file__).name}: a manifest broken in {words!r} passed, or was refused for something else: {heard}", file=sys.stderr)
            return 1
    try:
        load("replicas: 1\nreplicas: 2\n")
    except yaml.constructor.ConstructorError:
        pass
    else:
        print("a repeated key passed", file=sys.stderr)
        return 1

    print(f"{len(documents)} objects hold against Kubernetes {' and '.join(VERSIONS)}; {len(breakages()) + 1} broken ones were refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
