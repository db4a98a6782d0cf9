"""Ask a running `timechat serve` with OpenAI's client library.

    timechat serve --allow FOLDER &
    python examples/openai_client.py FOLDER/video.mp4 "What happens?" [--url http://127.0.0.1:8000] [--key KEY]

The video is uploaded once and then used in four requests: a whole answer, a streamed answer, JSON that follows a
schema, and dense captions.
"""

import argparse

from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="none")
    arguments = parser.parse_args()
    client = OpenAI(base_url=f"{arguments.url}/v1", api_key=arguments.key)
    model = client.models.list().data[0].id
    print(f"model: {model}")
    with open(arguments.video, "rb") as file:  # noqa: PTH123 - as in the client's manual
        video = client.files.create(file=file, purpose="user_data")
    print(f"uploaded: {video.filename}, {video.bytes} bytes, {video.model_extra['video']['duration']:.1f} s")
    part = {"type": "video_url", "video_url": {"url": video.id}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": arguments.question}]}]

    whole = client.chat.completions.create(model=model, messages=messages)
    answer = whole.choices[0].message.content
    print(f"answer: {answer}")
    print(f"tokens: {whole.usage.prompt_tokens} read, {whole.usage.completion_tokens} written")

    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And what comes next?"}]
    print("stream: ", end="")
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    colours = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"]
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": colours}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}}
    object_answer = client.chat.completions.create(model=model, messages=messages[:1], response_format=form)
    print(f"json: {object_answer.choices[0].message.content}")

    captions = client.chat.completions.create(
        model=model, messages=messages[:1], extra_body={"task": "dense_caption"}, max_tokens=120
    )
    for event in captions.model_extra["timechat"]["events"]:
        print(f"event: {event['start']:.1f} - {event['end']:.1f} s  {event['caption']}")
    client.files.delete(video.id)


if __name__ == "__main__":
    main()
