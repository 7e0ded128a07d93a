"""A stand-in for `helm template`: renders the subset of Go templates that our chart uses, so that the chart can be tried where helm
cannot be had. `helm.py render CHART [VALUES.yaml]` prints manifests, `helm.py check` holds manifests from standard input against
the schemas of Kubernetes, `helm.py values CHART VALUES.yaml` holds values against the chart's schema."""

import json
import re
import sys
from pathlib import Path

import yaml

TOKEN = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.S)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\(|\)|\||[^\s()|]+')


def merge(base, more):
    for key, value in (more or {}).items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value
    return base


def to_yaml(value):
    return yaml.safe_dump(value, sort_keys=True, default_flow_style=False, width=10**6).rstrip("\n").removesuffix("\n...")


def indent(count, text):
    return "\n".join(" " * count + line for line in text.split("\n"))


FUNCTIONS = {
    "quote": lambda v: json.dumps(str("" if v is None else v), ensure_ascii=False),
    "default": lambda fallback, v=None: v if v not in (None, "", 0, False, [], {}) else fallback,
    "toYaml": to_yaml,
    "nindent": lambda count, text: "\n" + indent(count, text),
    "indent": indent,
    "eq": lambda a, b: a == b,
    "not": lambda v: not v,
    "and": lambda *values: next((v for v in values if not v), values[-1]),
    "or": lambda *values: next((v for v in values if v), values[-1]),
    "printf": lambda text, *values: text % values,
    "trim": lambda text: text.strip(),
}


class Template:
    def __init__(self, context):
        self.context, self.defined = context, {}

    def parse(self, text):
        parts, at, strip = [], 0, False
        for found in TOKEN.finditer(text):
            before = text[at : found.start()]
            before = before.lstrip() if strip else before
            parts.append(("text", before.rstrip() if found[1] else before))
            parts.append(("code", found[2]))
            at, strip = found.end(), bool(found[3])
        parts.append(("text", text[at:].lstrip() if strip else text[at:]))
        self.parts, self.at = parts, 0
        return self.block()[0]

    def block(self):
        """Nodes up to `end` or `else`, and which of the two it was."""
        nodes = []
        while self.at < len(self.parts):
            kind, text = self.parts[self.at]
            self.at += 1
            if kind == "text":
                nodes.append(("text", text))
                continue
            word = text.split(None, 1)[0] if text else ""
            rest = text[len(word) :].strip()
            if word in ("if", "range", "with", "define"):
                body, ended = self.block()
                other = []
                if ended.startswith("else"):
                    condition = ended[4:].strip()
                    if condition:  # `else if …` is an `if` of its own
                        self.parts.insert(self.at, ("code", condition))
                    other, _ = self.block()
                if word == "define":
                    self.defined[rest.strip('"')] = body
                else:
                    nodes.append((word, rest, body, other))
            elif word == "end" or word == "else":
                return nodes, text
            elif not text.startswith("/*"):
                nodes.append(("print", text))
        return nodes, ""

    def run(self, nodes, dot):
        out = []
        for node in nodes:
            if node[0] == "text":
                out.append(node[1])
            elif node[0] == "print":
                value = self.value(node[1], dot)
                out.append("" if value is None else {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value))
            elif node[0] == "if":
                out.append(self.run(node[2] if self.value(node[1], dot) else node[3], dot))
            elif node[0] == "with":
                value = self.value(node[1], dot)
                out.append(self.run(node[2], value) if value else self.run(node[3], dot))
            elif node[0] == "range":
                values = self.value(node[1], dot) or []
                values = [values[key] for key in sorted(values)] if isinstance(values, dict) else values
                out.extend(self.run(node[2], value) for value in values)
                if not values:
                    out.append(self.run(node[3], dot))
        return "".join(out)

    def value(self, text, dot):
        words = WORD.findall(text)
        value = self.pipeline(words, dot)
        assert not words, f"not understood: {text}"
        return value

    def pipeline(self, words, dot):
        piped = []
        while True:
            arguments = []
            while words and words[0] not in ("|", ")"):
                arguments.append(self.atom(words, dot))
            head, arguments = arguments[0], arguments[1:] + piped
            value = head(*arguments) if callable(head) else head
            assert callable(head) or not arguments, f"{head} is no function"
            if not words or words[0] == ")":
                return value
            words.pop(0)
            piped = [value]

    def atom(self, words, dot):
        word = words.pop(0)
        if word == "(":
            value = self.pipeline(words, dot)
            words.pop(0)
            return value
        if word[0] == '"':
            return json.loads(word)
        if word[0] == "`":
            return word[1:-1]
        if word.lstrip("-").isdigit():
            return int(word)
        if word == "include":
            return lambda name, context: self.run(self.defined[name], context)
        if word[0] in ".$":
            value = self.context if word[0] == "$" else dot
            for name in word.lstrip("$").split("."):
                if name:
                    assert value is None or isinstance(value, dict), f"{word}: {value!r} has no fields"
                    value = (value or {}).get(name)
            return value
        return FUNCTIONS[word]


def render(chart, values_file=None):
    chart = Path(chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    if values_file:
        merge(values, yaml.safe_load(Path(values_file).read_text()))
    context = {
        "Values": values,
        "Release": {"Name": "interdict", "Namespace": "interdict-system", "Service": "Helm"},
        "Chart": {"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
    }
    template = Template(context)
    files = sorted((chart / "templates").iterdir(), key=lambda file: (file.suffix != ".tpl", file.name))
    out = []
    for file in files:
        text = template.run(template.parse(file.read_text()), context)
        if file.suffix == ".yaml" and text.strip():
            out.append(f"# Source: {chart.name}/templates/{file.name}\n{text.strip()}\n")
        elif file.name == "NOTES.txt":
            print(text, file=sys.stderr)
    return "---\n" + "---\n".join(out)


def check(text):
    import kubernetes_validate

    version = kubernetes_validate.latest_version()
    for document in yaml.safe_load_all(text):
        if document is None:
            continue
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["apiVersion"].startswith("monitoring.coreos.com/"):
            assert document["spec"]["podMetricsEndpoints"][0]["port"], name
            print(f"{name} custom")
            continue
        kubernetes_validate.validate(document, version, strict=True)
        print(f"{name} valid")


def main():
    word, *arguments = sys.argv[1:]
    if word == "render":
        sys.stdout.write(render(*arguments))
    elif word == "check":
        check(sys.stdin.read())
    elif word == "values":
        import jsonschema

        schema = json.loads((Path(arguments[0]) / "values.schema.json").read_text())
        values = yaml.safe_load((Path(arguments[0]) / "values.yaml").read_text())
        jsonschema.validators.validator_for(schema).check_schema(schema)
        jsonschema.validate(merge(values, yaml.safe_load(Path(arguments[1]).read_text())), schema)


main()
