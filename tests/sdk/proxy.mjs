// A network that can be told to misbehave, between a client and a server.

import { connect, createServer } from "node:net";

/** Stands before `host:port`. Modes: `good`, `cut` (nobody listens, all connections end), `hole` (nothing arrives, nothing is told), `slow`. */
export async function network(target) {
  const [host, port] = target.split(":");
  const pairs = new Set();
  let mode = "good";
  const held = [];

  const pass = (from, to, name) =>
    from.on("data", async (bytes) => {
      if (mode === "hole") {
        held.push(bytes.length);
        return;
      }
      if (mode === "slow") {
        // A few bytes at a time, as a modem in a cellar has them.
        from.pause();
        for (let at = 0; at < bytes.length && !to.destroyed; at += 200) {
          to.write(bytes.subarray(at, at + 200));
          await new Promise((done) => setTimeout(done, 20));
        }
        from.resume();
        return;
      }
      to.write(bytes);
    });

  const server = createServer((client) => {
    if (mode === "cut") {
      client.destroy();
      return;
    }
    const far = connect(Number(port), host);
    const pair = [client, far];
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      // A hole tells nobody that somebody left.
      if (mode !== "hole") {
        pair.forEach((socket) => socket.destroy());
      }
    };
    pair.forEach((socket) => socket.on("close", end).on("error", () => {}));
    pass(client, far, "up");
    pass(far, client, "down");
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    address: `http://127.0.0.1:${server.address().port}`,
    becomes(next) {
      mode = next;
      if (next === "cut") {
        pairs.forEach((pair) => pair.forEach((socket) => socket.destroy()));
      }
    },
    connections: () => pairs.size,
    close() {
      this.becomes("cut");
      server.close();
    },
  };
}
