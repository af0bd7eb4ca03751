/* Reading a frame: a header, and blocks that are sent once and named ever after. */
(() => {
  "use strict";

  const KEPT_BLOCKS = 512; // twice what the server assumes, see Known in app/pack.py

  const ARRAYS = {
    uint8: Uint8Array,
    int16: Int16Array,
    float32: Float32Array,
  };

  function bytesOf(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  const isReference = (v) => v !== null && typeof v === "object" && "hash" in v && "dtype" in v;

  /** Blocks by name, the least recently used forgotten first, in step with the server. */
  class Blocks {
    constructor() {
      this.held = new Map();
    }

    put(name, bytes) {
      // a copy, or the whole frame would stay in memory for its smallest block
      this.held.set(name, { bytes: bytes.slice(), value: undefined, inner: null });
    }

    /** Whether a block is held with everything inside it; marks all of it as used. */
    touch(reference) {
      const block = this.held.get(reference.hash);
      if (!block) return false;
      this.held.delete(reference.hash);
      this.held.set(reference.hash, block);
      if (reference.dtype !== "json") return true;
      if (!block.inner) block.inner = references(this.get(reference));
      let all = true;
      for (const inner of block.inner) all = this.touch(inner) && all;
      return all;
    }

    /** Names of all blocks within some references, which must be held. */
    within(list, names = new Set()) {
      for (const reference of list) {
        if (names.has(reference.hash)) continue;
        names.add(reference.hash);
        const block = this.held.get(reference.hash);
        if (reference.dtype !== "json") continue;
        block.inner ||= references(this.get(reference));
        this.within(block.inner, names);
      }
      return names;
    }

    /** The typed array or the object that a reference names; the same one every time. */
    get(reference) {
      // what the timeline shows may be long gone from what is held for the stream
      const kept = this.tape && this.tape.find(reference.hash);
      const block = this.held.get(reference.hash) || (kept && kept.block);
      if (!block) throw new Error(`block ${reference.hash} is missing`);
      if (block.value === undefined) {
        block.value =
          reference.dtype === "json"
            ? JSON.parse(new TextDecoder().decode(block.bytes))
            : new ARRAYS[reference.dtype](block.bytes.buffer);
      }
      return block.value;
    }

    trim() {
      for (const name of this.held.keys()) {
        if (this.held.size <= KEPT_BLOCKS) break;
        this.held.delete(name);
      }
    }
  }

  function references(value, found = []) {
    if (isReference(value)) found.push(value);
    else if (value && typeof value === "object") {
      for (const key of Object.keys(value)) references(value[key], found);
    }
    return found;
  }

  /** One packed frame: its header, with `missing` when it names a block that is not held. */
  function readFrame(base64, blocks) {
    const bytes = bytesOf(base64);
    const length = new DataView(bytes.buffer).getUint32(0, true);
    const frame = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const start = 4 + length;
    for (const [name, offset, size] of frame.blocks) {
      blocks.put(name, bytes.subarray(start + offset, start + offset + size));
    }
    frame.missing = false;
    for (const reference of [frame.about, frame.metrics.what, ...frame.panels]) {
      if (!blocks.touch(reference)) frame.missing = true;
    }
    blocks.trim();
    return frame;
  }

  Object.assign(PlaygroundLive, { Blocks, readFrame });
})();
