import pytest

from tests.backbones.endpoint.stub import SECRET
from timechat.backbones.endpoint.address import ApiKey, EndpointAddress, without_secrets
from timechat.backbones.loading import is_endpoint


@pytest.mark.parametrize(
    ("text", "base_url", "model", "host"),
    [
        ("http://127.0.0.1:8000/v1#Qwen/Qwen3-VL-8B", "http://127.0.0.1:8000/v1", "Qwen/Qwen3-VL-8B", "127.0.0.1"),
        (" HTTPS://API.Example.com/v1/ ", "https://api.example.com/v1", None, "api.example.com"),
        ("http://localhost:11434", "http://localhost:11434/v1", None, "localhost"),
        ("http://[::1]:8000/openai/v1#a#b", "http://[::1]:8000/openai/v1", "a#b", "::1"),
        ("http://host/v1#", "http://host/v1", None, "host"),
    ],
)
def test_address_has_base_model_and_host(text, base_url, model, host):
    address = EndpointAddress.parse(text)
    assert (address.base_url, address.model, address.host) == (base_url, model, host)
    assert EndpointAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "ftp://host/v1", "host:8000/v1", "http://", "http://:80/v1", "http://host:port/v1", "http://a b/v1"]
)
def test_text_that_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="the address of an endpoint cannot be read: expected http://HOST/v1#MODEL"):
        EndpointAddress.parse(text)


@pytest.mark.parametrize(
    "text", [f"https://user:{SECRET}@host/v1", f"https://host/v1?key={SECRET}#m", f"ftp://{SECRET}@h"]
)
def test_secret_in_an_address_is_refused_and_not_repeated(text):
    with pytest.raises(ValueError) as caught:
        EndpointAddress.parse(text)
    assert SECRET not in str(caught.value)


def test_only_web_addresses_are_endpoints():
    assert is_endpoint("http://127.0.0.1:8000/v1#a")
    assert is_endpoint("HTTPS://host/v1")
    assert not is_endpoint("Qwen/Qwen3-VL-8B")
    assert not is_endpoint("/models/http")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("vllm.localhost", True),
        ("127.9.0.1", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("127.0.0.1.nip.io", False),
        ("2130706433", False),
    ],
)
def test_only_names_of_this_machine_are_loopback(host, is_loopback):
    address = EndpointAddress.parse(f"https://{host}/v1")
    assert address.is_loopback is is_loopback
    assert (address.privacy_note() is None) is is_loopback


def test_privacy_note_says_what_is_sent_to_which_host():
    assert EndpointAddress.parse("https://api.example.com/v1").privacy_note() == (
        "Frames of the video (not the file, not the sound), your question, and the transcript if you give one leave "
        "this machine to api.example.com."
    )
    assert EndpointAddress.parse("http://10.0.0.1:8000/v1").privacy_note() == (
        "Frames of the video (not the file, not the sound), your question, and the transcript if you give one leave "
        "this machine to 10.0.0.1, without encryption."
    )


def test_key_comes_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    assert ApiKey.from_environment() == ApiKey("OPENAI_API_KEY", SECRET)
    environment = {"MY_KEY": "abc"}
    assert ApiKey.from_environment("MY_KEY", environment) == ApiKey("MY_KEY", "abc")
    assert ApiKey.from_environment(None, environment) is None


def test_named_variable_must_be_set():
    with pytest.raises(ValueError, match="the environment variable MY_KEY is not set; set it to the key"):
        ApiKey.from_environment("MY_KEY", {"OPENAI_API_KEY": SECRET})


@pytest.mark.parametrize(("variable", "value"), [(SECRET, SECRET), ("KEY", f"{SECRET}\nX: 1"), ("KEY", f"{SECRET}é")])
def test_key_with_mistakes_is_refused_and_not_repeated(variable, value):
    with pytest.raises(ValueError) as caught:
        ApiKey.from_environment(variable, {variable: value})
    assert SECRET not in str(caught.value)


def test_key_is_not_in_its_representation():
    assert repr(ApiKey("KEY", SECRET)) == "ApiKey(variable='KEY')"


def test_texts_of_a_server_lose_key_pictures_and_length():
    text = f"bad\nkey {SECRET}: data:image/png;base64,{'B' * 99}== {'x' * 999}"
    line = without_secrets(text, ApiKey("KEY", SECRET), max_characters=50)
    assert line == f"bad key …: data:… {'x' * 31}…"
    assert without_secrets("plain", None) == "plain"
