// The servers of a run. None outlives it, however it ends.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';

const START_SECONDS = 20;
const STOP_SECONDS = 15;
/** What is shown of its output when one fails: where CI runs, nobody sees the logs. */
const LAST_LINES = 5;

const running = new Set();
let closing = false;

/** Waits for the line of the server's output that says where it listens: resolves to `{ match, stop, ended }`. */
export async function startServer(command, args, { ready, log, env = {}, hear = () => {} }) {
  if (closing) throw new Error('this run is being ended');
  // With `setpriv` the kernel ends it even where this process is killed.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = createWriteStream(log);
  const last = [];
  const keep = (line) => {
    output.write(`${line}\n`);
    hear(line);
    last.push(line);
    if (last.length > LAST_LINES) last.shift();
  };
  createInterface({ input: child.stderr }).on('line', keep);

  let stopping = false;
  const name = basename(args.find((arg) => arg.endsWith('.mjs')) ?? command);
  // Its output is complete only when it closes.
  const exited = once(child, 'close').then(([code, signal]) => {
    running.delete(server);
    output.end();
    return [`${name} ended with ${signal ?? `code ${code}`}, see ${log}`, ...last].join('\n');
  });
  const server = {
    /** Rejects when the server ends without having been told to. */
    ended: exited.then((how) => {
      if (!stopping) throw new Error(how);
    }),
    async stop() {
      stopping = true;
      child.kill('SIGTERM');
      const killer = setTimeout(() => child.kill('SIGKILL'), STOP_SECONDS * 1000);
      await exited.catch(() => {});
      clearTimeout(killer);
    },
  };
  // Who waits for it comes later.
  server.ended.catch(() => {});
  running.add(server);

  let patience;
  const match = new Promise((resolve, reject) => {
    patience = setTimeout(() => reject(new Error(`${name} isn't ready after ${START_SECONDS} s: see ${log}`)), START_SECONDS * 1000);
    createInterface({ input: child.stdout }).on('line', (line) => {
      keep(line);
      const found = ready.exec(line);
      if (found) resolve(found);
    });
  });
  try {
    const found = await Promise.race([match, server.ended]);
    if (!found) throw new Error(`${name} was ended before it was ready`);
    return { ...server, match: found };
  } catch (error) {
    await server.stop();
    throw error;
  } finally {
    clearTimeout(patience);
  }
}

/** For good: whatever is still being started comes to nothing. */
export async function stopAll() {
  closing = true;
  await Promise.all([...running].map((server) => server.stop()));
}
