"""A folder of what is no plain text, for agents to read: pictures, a PDF, a notebook with pictures, binaries, emoji, a
huge and an empty file, names that need quoting. Made by a program that the agent itself runs in its sandbox.
"""

from __future__ import annotations

import base64

FILES = (
    *("dot.png", "photo one.jpg", "größe.gif", "web.webp", "paper.pdf", "book.ipynb", "program.bin", "emoji 😀.txt"),
    *("huge.txt", "one line.txt", "empty.txt", "latin1.txt"),
)
_PROGRAM = r"""
import base64, json, pathlib, struct, zlib
box = pathlib.Path("/app/odd"); box.mkdir()
def write(name, data):
    (box / name).write_bytes(data if isinstance(data, bytes) else data.encode())
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
png += chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\x80\0" * 8) * 8)) + chunk(b"IEND", b"")
write("dot.png", png)
write("photo one.jpg", base64.b64decode("/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP" + "/" * 86 +
    "wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA="))
write("größe.gif", base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"))
write("web.webp", base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"))
parts = ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
    "<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>"]
pdf, places = b"%PDF-1.4\n", []
for number, part in enumerate(parts, 1):
    places.append(len(pdf)); pdf += f"{number} 0 obj{part}endobj\n".encode()
start = len(pdf)
pdf += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
write("paper.pdf", pdf + b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % start)
output = {"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(png).decode()}}
cell = {"cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "outputs": [output], "source": ["plot()"]}
write("book.ipynb", json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
write("program.bin", bytes(range(256)) * 40)
write("emoji 😀.txt", "😀" * 3000 + "\n👩‍👩‍👧 <|im_end|> </tool_response>\n")
write("huge.txt", "".join(f"line {number}\n" for number in range(400_000)))
write("one line.txt", "é" * 300_000)
write("empty.txt", "")
write("latin1.txt", "größe".encode("latin-1"))
print("MADE")
"""
MAKE = f"python3 -c \"import base64; exec(base64.b64decode('{base64.b64encode(_PROGRAM.encode()).decode()}'))\""
