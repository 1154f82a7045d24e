// The servers of a run. None outlives it, however it ends.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';

const START_SECONDS = 20;
const STOP_SECONDS = 15;

const running = new Set();

/** Starts a server and waits for the line of its output that says where it listens: resolves to `{ match, stop, ended }`. */
export async function startServer(command, args, { ready, log, env = {} }) {
  // With `setpriv` the kernel ends it even where this process is killed.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = createWriteStream(log);
  child.stderr.pipe(output, { end: false });

  let stopping = false;
  const name = basename(args.find((arg) => arg.endsWith('.mjs')) ?? command);
  const exited = once(child, 'exit').then(([code, signal]) => {
    running.delete(server);
    return `${name} ended with ${signal ?? `code ${code}`}: see ${log}`;
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
      output.write(`${line}\n`);
      const found = ready.exec(line);
      if (found) resolve(found);
    });
  });
  try {
    return { ...server, match: await Promise.race([match, server.ended]) };
  } catch (error) {
    await server.stop();
    throw error;
  } finally {
    clearTimeout(patience);
  }
}

export async function stopAll() {
  await Promise.all([...running].map((server) => server.stop()));
}
