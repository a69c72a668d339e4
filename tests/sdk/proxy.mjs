// A TCP proxy between a client and a server that simulates network failures.

import { connect, createServer } from "node:net";

/**
 * A proxy for the server at `host:port`. Modes: `good`, `cut` (connections are closed and refused), `blackhole` (data is dropped silently), `slow` (10 kB
 * a second).
 */
export async function network(target) {
  const [host, port] = target.split(":");
  const pairs = new Set();
  let mode = "good";

  const forward = (from, to) =>
    from.on("data", async (bytes) => {
      if (mode === "blackhole") {
        return;
      }
      if (mode === "slow") {
        // 200 bytes every 20 ms.
        from.pause();
        for (let at = 0; at < bytes.length && !to.destroyed; at += 200) {
          to.write(bytes.subarray(at, at + 200));
          await new Promise((resolve) => setTimeout(resolve, 20));
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
    const upstream = connect(Number(port), host);
    const pair = [client, upstream];
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      // A black hole also swallows the end of a connection.
      if (mode !== "blackhole") {
        pair.forEach((socket) => socket.destroy());
      }
    };
    pair.forEach((socket) => socket.on("close", end).on("error", () => {}));
    forward(client, upstream);
    forward(upstream, client);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${server.address().port}`,
    setMode(next) {
      mode = next;
      if (next === "cut") {
        pairs.forEach((pair) => pair.forEach((socket) => socket.destroy()));
      }
    },
    connections: () => pairs.size,
    close() {
      this.setMode("cut");
      server.close();
    },
  };
}
