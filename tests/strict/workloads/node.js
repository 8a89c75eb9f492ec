// What ordinary Node programs do. Prints `ok`; anything else is a failure.
'use strict';
const assert = require('assert');
const childProcess = require('child_process');
const crypto = require('crypto');
const dgram = require('dgram');
const dns = require('dns');
const fs = require('fs');
const http = require('http');
const net = require('net');
const os = require('os');
const path = require('path');
const readline = require('readline');
const stream = require('stream');
const zlib = require('zlib');
const { Worker, isMainThread, parentPort } = require('worker_threads');
const { promisify } = require('util');

async function files() {
  const d = fs.mkdtempSync(path.join(os.tmpdir(), 'n'));
  const f = path.join(d, 'f');
  fs.writeFileSync(f, Buffer.alloc(100000, 'x'));
  fs.appendFileSync(f, 'y');
  await fs.promises.copyFile(f, f + '2');
  await fs.promises.rename(f + '2', f + '3');
  await fs.promises.symlink('f', f + '4');
  await fs.promises.link(f, f + '5');
  await fs.promises.readlink(f + '4');
  await fs.promises.chmod(f, 0o600);
  await fs.promises.chown(f, process.getuid(), process.getgid());
  await fs.promises.utimes(f, 1, 2);
  await fs.promises.access(f, fs.constants.R_OK);
  await fs.promises.truncate(f, 10);
  await fs.promises.realpath(f);
  await fs.promises.statfs(d);
  fs.statSync(f, { bigint: true });
  fs.lstatSync(f + '4');
  await fs.promises.mkdir(path.join(d, 'a/b/c'), { recursive: true });
  const handle = await fs.promises.open(f, 'r+');
  await handle.writev([Buffer.from('a'), Buffer.from('b')]);
  await handle.readv([Buffer.alloc(1)]);
  await handle.read(Buffer.alloc(4), 0, 4, 0);
  await handle.sync();
  await handle.datasync();
  await handle.close();
  await fs.promises.cp(d, d + '-copy', { recursive: true });
  for await (const _ of await fs.promises.opendir(d)) { /* each entry */ }
  const watched = new Promise((resolve) => {
    const w = fs.watch(d, () => { w.close(); resolve(); });
    setTimeout(() => fs.writeFileSync(path.join(d, 'new'), 'x'), 20);
  });
  await watched;
  await promisify(stream.pipeline)(fs.createReadStream(f + '3'), zlib.createGzip(), fs.createWriteStream(f + '.gz'));
  const lines = readline.createInterface({ input: fs.createReadStream(__filename) });
  for await (const line of lines) { if (line) break; }
  fs.rmSync(d, { recursive: true });
  fs.rmSync(d + '-copy', { recursive: true });
}

async function processes() {
  assert.strictEqual(childProcess.execSync('echo hi').toString(), 'hi\n');
  assert.strictEqual(childProcess.spawnSync('cat', { input: 'abc' }).stdout.toString(), 'abc');
  const { stdout } = await promisify(childProcess.exec)('echo out; echo err >&2');
  assert.strictEqual(stdout, 'out\n');
  const child = childProcess.spawn('sleep', ['60'], { detached: true, stdio: 'ignore' });
  child.kill('SIGTERM');
  await new Promise((resolve) => child.on('exit', resolve));
  const forked = childProcess.fork(__filename, ['child']);
  forked.send({ n: 4 });
  await new Promise((resolve) => forked.on('message', (m) => { assert.strictEqual(m.n, 16); resolve(); }));
  process.on('SIGUSR2', () => {});
  process.kill(process.pid, 'SIGUSR2');
}

async function threads() {
  const shared = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(__filename, { workerData: null });
  worker.postMessage(shared);
  Atomics.wait(shared, 0, 0, 5000);
  assert.strictEqual(Atomics.load(shared, 0), 7);
  await new Promise((resolve) => worker.on('exit', resolve));
  await promisify(crypto.scrypt)('p', 's', 32);
  crypto.randomBytes(16);
  crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
  crypto.createHash('sha256').update('x').digest();
  await promisify(zlib.brotliCompress)(Buffer.alloc(100000));
}

async function network() {
  const server = http.createServer((request, response) => response.end('hello'));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const reply = await fetch(`http://127.0.0.1:${server.address().port}/`);
  assert.strictEqual(await reply.text(), 'hello');
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  const place = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 's')), 's');
  const echo = net.createServer((c) => c.pipe(c)).listen(place);
  await new Promise((resolve) => {
    const c = net.connect(place, () => c.end('x'));
    c.on('data', () => {});
    c.on('close', resolve);
  });
  echo.close();
  const six = net.createServer().listen(0, '::1');
  await new Promise((resolve) => six.on('listening', resolve));
  six.close();
  const udp = dgram.createSocket('udp4');
  await new Promise((resolve) => udp.bind(0, '127.0.0.1', resolve));
  udp.send('x', udp.address().port, '127.0.0.1');
  await new Promise((resolve) => udp.on('message', resolve));
  udp.close();
  await promisify(dns.lookup)('localhost');
}

function system() {
  os.cpus(); os.freemem(); os.totalmem(); os.loadavg(); os.uptime(); os.hostname(); os.userInfo(); os.release();
  os.getPriority(); os.setPriority(1); os.availableParallelism();
  try { os.networkInterfaces(); } catch { /* route netlink isn't everywhere */ }
  process.memoryUsage(); process.cpuUsage(); process.resourceUsage(); process.hrtime.bigint(); process.uptime();
  process.title = 'renamed';
  process.umask(0o022);
  process.getgroups();
  process.cwd(); process.chdir('/tmp');
  const bytes = Buffer.from('0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b', 'hex');
  assert.strictEqual(new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports.add(2, 3), 5);
  let garbage = [];
  for (let i = 0; i < 200000; i++) garbage.push({ i });
  for (let round = 0; round < 300; round++) JSON.parse(JSON.stringify(garbage.slice(0, 1000)));
  childProcess.execFileSync(process.execPath, ['--version']);
  assert.throws(() => childProcess.execFileSync(process.execPath, ['-e', 'process.abort()'], { stdio: 'ignore' }));
}

async function main() {
  await files();
  await processes();
  await threads();
  await network();
  await new Promise((resolve) => setTimeout(resolve, 10));
  await new Promise((resolve) => setImmediate(resolve));
  system();
  console.log('ok');
}

if (!isMainThread) {
  parentPort.once('message', (shared) => { Atomics.store(shared, 0, 7); Atomics.notify(shared, 0); });
} else if (process.argv[2] === 'child') {
  process.once('message', (m) => { process.send({ n: m.n * m.n }); process.disconnect(); });
} else {
  main().catch((e) => { console.error(e); process.exit(1); });
}
