// The HTTP Observatory's score of one page, with the headers a person's browser would send.
//
//   node observatory.mjs HOST PATH ADDRESS <headers.json     {"Authorization": "...", "Cookie": "..."} or {}
//
// ADDRESS is where HOST answers, as the lab's names resolve in the lab only. The scanner itself takes a name alone and would
// score the 401 page. Needs the npm package @mdn/mdn-http-observatory where node finds it, and the CA's certificate in
// NODE_EXTRA_CA_CERTS. Prints one JSON object: score, grade, status, and each test's result with its modifier.

import dns from "node:dns";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [host, page, address] = process.argv.slice(2);
if (!address) {
  console.error("usage: node observatory.mjs HOST PATH ADDRESS <headers.json");
  process.exit(64);
}

const lookup = dns.lookup;
dns.lookup = (name, options, callback) =>
  name === host
    ? (callback ?? options)(null, options?.all ? [{ address, family: 4 }] : address, 4)
    : lookup(name, options, callback);

const root = path.dirname(createRequire(path.join(process.cwd(), "x.js")).resolve("@mdn/mdn-http-observatory/package.json"));
const part = (file) => import(pathToFileURL(path.join(root, "src", file)));
const { retrieve } = await part("retriever/retriever.js");
const { ALL_TESTS } = await part("constants.js");
const { getGradeForScore, getScoreModifier } = await part("grader/grader.js");
const { MINIMUM_SCORE_FOR_EXTRA_CREDIT } = await part("grader/charts.js");

const headers = Object.entries(JSON.parse(readFileSync(0, "utf8"))).map(([name, value]) => `${name}: ${value}`);
const requests = await retrieve(host, { path: page, headers: ["Accept: text/html,*/*;q=0.8", ...headers] });
if (!requests.responses.auto) {
  console.error(`observatory: ${host} does not answer at ${address}`);
  process.exit(1);
}

let all = 100;
let lost = 100;
const tests = {};
for (const test of ALL_TESTS) {
  const result = test(requests);
  const modifier = result.result ? getScoreModifier(result.result) : 0;
  all += modifier;
  lost += Math.min(modifier, 0);
  tests[result.constructor.name] = [result.result, modifier];
}
// Extra credit counts only where the rest alone is an A.
const { score, grade } = getGradeForScore(lost >= MINIMUM_SCORE_FOR_EXTRA_CREDIT ? all : lost);
console.log(JSON.stringify({ score, grade, status: requests.responses.auto.status, tests }));
