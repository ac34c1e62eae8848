"""Bytes changed at random, as disks, networks and people change them."""

import random

ODD = (
    b"\0",
    b"\xff",
    b"\t",
    b"\n",
    b"\r\n",
    b",",
    b'"',
    b"-",
    b" ",
    b"\xef\xbb\xbf",
    b"\xe9",
    b"0",
)


def mutated(content: bytes, chance: random.Random, most: int = 3) -> bytes:
    """`content` with one to `most` changes."""
    for _ in range(chance.randint(1, most)):
        place = chance.randrange(len(content) + 1)
        length = min(chance.choice((1, 1, 2, 4, 8, 64, 1000)), len(content) - place)
        before, piece, after = content[:place], content[place : place + length], content[place:]
        match chance.randrange(8):
            case 0:  # a bit
                flipped = bytes([piece[0] ^ 1 << chance.randrange(8)]) if piece else b""
                content = before + flipped + after[1:]
            case 1:  # bytes drawn anew
                content = before + chance.randbytes(length) + after[length:]
            case 2:  # zeros
                content = before + bytes(length) + after[length:]
            case 3:  # taken out
                content = before + after[length:]
            case 4:  # there twice
                content = before + piece + after
            case 5:  # cut off
                content = before if chance.random() < 0.3 else content
            case 6:  # the largest number
                content = before + b"\xff" * length + after[length:]
            case _:  # something that means something
                content = before + chance.choice(ODD) + after[chance.randrange(2) :]
    return content
