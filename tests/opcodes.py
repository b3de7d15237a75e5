"""Prints the line of src/capture/python/bytecode/opcodes.txt for the Python that runs this: two hexadecimal digits an opcode, what it
is and how many cache entries follow it. See src/capture/python/bytecode/mod.rs."""
import dis
import opcode
import sys

NOTHING, NAME, NAME_HALVED, NAME_QUARTERED, EXTENDED_ARG, BACKWARD, ABSOLUTE, UNKNOWN = range(8)
VERSION = sys.version_info[:2]

opcodes = dict(getattr(dis, "_all_opmap", opcode.opmap))
opcodes.update(opcode.opmap)
base_of = getattr(dis, "deoptmap", {})
caches = getattr(opcode, "_inline_cache_entries", {})


def caches_of(name):
    for candidate in (name, base_of.get(name, name), name.replace("INSTRUMENTED_", "")):
        number = opcodes.get(candidate)
        if hasattr(caches, "get"):  # by name, 3.13+
            count = caches.get(candidate, 0)
        else:
            count = caches[number] if number is not None else 0
        if count:
            return count
    return 0


def kind(name):
    base = base_of.get(name, name).replace("INSTRUMENTED_", "")
    if name in ("INSTRUMENTED_LINE", "INSTRUMENTED_INSTRUCTION", "ENTER_EXECUTOR"):
        return UNKNOWN
    if base in ("EXTENDED_ARG", "EXTENDED_ARG_QUICK"):
        return EXTENDED_ARG
    if "JUMP" in base and "BACKWARD" in base:
        return BACKWARD
    if opcodes.get(base) in opcode.hasjabs and VERSION < (3, 11):
        return ABSOLUTE
    if opcodes.get(base) in opcode.hasname:
        if base == "LOAD_SUPER_ATTR" or (base == "IMPORT_NAME" and VERSION >= (3, 15)):
            return NAME_QUARTERED
        if (base == "LOAD_GLOBAL" and VERSION >= (3, 11)) or (base == "LOAD_ATTR" and VERSION >= (3, 12)):
            return NAME_HALVED
        return NAME
    return NOTHING


table = [UNKNOWN << 4] * 256
for name, number in opcodes.items():
    if number < 256 and not name.startswith("<"):
        table[number] = kind(name) << 4 | caches_of(name)
print("3.%d %s" % (VERSION[1], bytes(table).hex()))
