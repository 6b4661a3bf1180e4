"""Validates manifests: YAML on standard input, and on standard output what they are and what is wrong with them.

Kubernetes' own kinds are held to its schemas, and a field that those do not know is wrong. What is Istio's is left to
`istio.mjs`. A kind that neither knows is wrong, and so is a name that stands twice in a mapping.
"""

import json
import sys

import kubernetes_validate
import yaml

#: The newest, and the oldest whose native sidecars need no switch.
VERSIONS = ["1.37", "1.29"]


class Loader(yaml.SafeLoader):
    """YAML without the last of two equal names winning."""


def mapping(loader, node):
    names = [loader.construct_object(name) for name, _ in node.value]
    for name in names:
        if names.count(name) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def problems(document):
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield error.message


def main():
    documents = [it for it in yaml.load_all(sys.stdin, Loader) if it is not None]
    found = []
    for document in documents:
        is_istios = document.get("apiVersion", "").partition("/")[0].endswith(".istio.io")
        found.append([] if is_istios else list(problems(document)))
    json.dump({"documents": documents, "problems": found}, sys.stdout)


if __name__ == "__main__":
    main()
