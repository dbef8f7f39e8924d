"""What the API says of itself is what it does: schemathesis calls everything that the OpenAPI document names."""

import asyncio
import sys
from pathlib import Path

from rpcapi_running import TOKEN, running

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,positive_data_acceptance,unsupported_method,ignored_auth"
)
STREAM = "/v1/stream"


async def test_everything_that_the_openapi_document_names_behaves_as_it_says(tmp_path: Path):
    async with running(auth="token", token=TOKEN) as api:
        run = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{api.url}/openapi.json"),
            *("--checks", CHECKS, "--max-examples", "15", "--seed", "1", "--generation-database", "none"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--exclude-path", STREAM, "--phases", "examples,fuzzing"),
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()
