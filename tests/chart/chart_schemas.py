"""Validates manifests strictly against Kubernetes' own schemas; runs where `kubernetes_validate` can be imported.

Standard input: JSON, {"versions": ["1.28", …], "documents": [manifest, …]}. Standard output: a JSON list of sentences,
one for each manifest that a version refuses or does not know. Kinds of `FOREIGN` groups have no schema here.
"""

import json
import sys
from typing import Any

import jsonschema
import kubernetes_validate.utils as schemas
from referencing import Registry, Resource

FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")


def main() -> None:
    asked = json.load(sys.stdin)
    found = []
    for version in asked["versions"]:
        folder = f"kubernetes-json-schema/v{version}.0-local-strict"
        definitions = Resource.from_contents(schemas.schema_contents(f"{folder}/_definitions.json", version))
        validators: dict[str, Any] = {}
        for document in asked["documents"]:
            if document["apiVersion"].startswith(FOREIGN):
                continue
            name = f"{document['kind'].lower()}-{_group(document['apiVersion'])}"
            if name not in validators:
                try:
                    schema = schemas.schema_contents(f"{folder}/{name}.json", version)
                except FileNotFoundError:
                    found.append(f"{version} does not know {document['apiVersion']} {document['kind']}")
                    continue
                registry: Any = definitions @ (Resource.from_contents(schema) @ Registry())
                validators[name] = jsonschema.Draft202012Validator(schema, registry=registry)
            for error in validators[name].iter_errors(document):
                where = ".".join(map(str, error.path))
                found.append(f"{version}: {document['kind']} {document['metadata']['name']}: {where}: {error.message}")
    json.dump(found, sys.stdout)


def _group(api_version: str) -> str:
    group, _, version = api_version.rpartition("/")
    return f"{group.split('.')[0]}-{version}" if group else version


if __name__ == "__main__":
    main()
