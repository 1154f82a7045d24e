// What a client of the suite talks to: the proxy with one kind of store, and behind it an origin of its own.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { startServer } from './processes.mjs';

export const STORES = ['memory', 'redis', 'tiered'];

/** What the reverse proxy is told for a profile, and the client's proxy for `private`. */
const PROXY = {
  safe: ['--profile', 'safe'],
  strict: ['--profile', 'strict'],
  own: ['--profile', 'safe', '--query', '64KiB', '--no-vary-search'],
  private: ['--owner', 'conformance'],
};

/** No test is about a Redis that is slow, as it is on a busy machine. */
const REDIS_MILLISECONDS = 5000;

/** Below those of outgoing connections, and those of the servers of Rust's tests, which are theirs while they are down as well. */
const REDIS_PORTS = { first: 10_000, count: 2_000 };
/** How many of them are tried: others may be taken. */
const PORTS_TRIED = 5;

const LOOPBACK = fileURLToPath(new URL('loopback.cjs', import.meta.url));

/** The beginning of the lines in which the proxy compares explanations and answers. */
const EXPLAINED = 'explain: ';

/**
 * Resolves to `{ store, base, direct, failed, said, close }`: the cache, the origin, what rejects as soon as one of the servers is gone, and
 * what the proxy says of its explanations, the sum of them once it is closed.
 */
export async function openStack({ suite, proxy, profile, store, explain = false, logs }) {
  const servers = [];
  const log = (server) => join(logs, `${suite.name}-${profile}-${store}-${server}.log`);
  const close = async () => {
    for (const server of [...servers].reverse()) await server.stop();
  };
  try {
    const origin = await startOrigin(suite, log('origin'));
    servers.push(origin);
    const args = ['--listen', '127.0.0.1:0', '--origin', `http://${origin.match[1]}`, ...PROXY[profile]];
    if (store !== 'memory') {
      const redis = await startRedis(log('redis'));
      servers.push(redis);
      args.push('--redis', redis.url, '--redis-timeout', String(REDIS_MILLISECONDS));
    }
    if (store !== 'redis') args.push('--memory', '64MiB');
    if (explain) args.push('--explain');
    const said = [];
    const front = await startServer(proxy, args, {
      ready: /(http:\/\/127\.0\.0\.1:\d+) ->/,
      log: log('proxy'),
      hear: (line) => line.startsWith(EXPLAINED) && said.push(line.slice(EXPLAINED.length)),
    });
    servers.push(front);
    const failed = Promise.race(servers.map((server) => server.ended)).then(() => new Promise(() => {}));
    failed.catch(() => {});
    return { store, base: front.match[1], direct: `http://${origin.match[1]}`, failed, said, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function startOrigin(suite, log) {
  return startServer(process.execPath, ['--require', LOOPBACK, suite.server], {
    ready: /Listening on http:\/\/(127\.0\.0\.1:\d+)\//,
    log,
    env: { npm_config_protocol: 'http', npm_config_port: '0', npm_config_pidfile: '/dev/null' },
  });
}

/** Redis can't say which port it picked, so it is told one. */
async function startRedis(log) {
  for (let tried = 1; ; tried += 1) {
    const port = String(REDIS_PORTS.first + Math.floor(Math.random() * REDIS_PORTS.count));
    const args = ['--bind', '127.0.0.1', '--port', port, '--save', '', '--appendonly', 'no', '--daemonize', 'no'];
    try {
      const server = await startServer('redis-server', args, { ready: /Ready to accept connections/, log });
      return { ...server, url: `redis://127.0.0.1:${port}` };
    } catch (error) {
      if (tried === PORTS_TRIED || !error.message.includes('Address already in use')) throw error;
    }
  }
}
