"""Draw a short film in which simple things happen at known times.

python examples/draw_demo.py OUT.mp4

0 - 22 s    a grey room with a clock hand that turns once in the film
3 -  8 s    a red circle is there
10 - 15 s   a blue square crosses the picture from left to right
18 - 22 s   a light is on
"""

import argparse
from pathlib import Path

import av
from PIL import Image, ImageDraw

WIDTH, HEIGHT, RATE, DURATION = 320, 240, 25, 22.0
DARK, LIT = (62, 66, 76), (232, 226, 196)
CLOCK, LAMP = (275, 10, 310, 45), (140, 8, 180, 48)


def draw(seconds: float) -> Image.Image:
    """The picture that is shown at a time."""
    is_lit = seconds >= 18
    image = Image.new("RGB", (WIDTH, HEIGHT), LIT if is_lit else DARK)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 200, WIDTH, HEIGHT), fill=(120, 92, 64))
    pen.ellipse(LAMP, fill=(255, 240, 120) if is_lit else (30, 30, 34), outline=(20, 20, 20), width=3)
    pen.ellipse(CLOCK, fill=(245, 245, 245), outline=(20, 20, 20), width=2)
    pen.pieslice(CLOCK, -90, -90 + 360 * seconds / DURATION, fill=(90, 90, 200))
    if 3 <= seconds < 8:
        pen.ellipse((110, 80, 210, 180), fill=(215, 40, 40))
    if 10 <= seconds < 15:
        left = (WIDTH + 60) * (seconds - 10) / 5 - 60
        pen.rectangle((left, 110, left + 60, 170), fill=(40, 80, 220))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(out), "w") as film:
        stream = film.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "veryfast", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(round(DURATION * RATE)):
            film.mux(stream.encode(av.VideoFrame.from_image(draw(number / RATE))))
        film.mux(stream.encode(None))
    print(f"{out}: {DURATION:g} s, {WIDTH}x{HEIGHT}")


if __name__ == "__main__":
    main()
