// Validates resources of Istio: `node istio.mjs FOLDER`, a JSON list of them on standard input, and on standard output for
// each of them the list of what is wrong.
//
// FOLDER has `@kubernetes-models/istio`. Its validators are made from Istio's CRDs, and take fields that nobody knows; its
// types are made from them as well, and TypeScript does not.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const folder = path.resolve(process.argv[2]);
const models = path.join(folder, 'node_modules', '@kubernetes-models', 'istio');
const ts = createRequire(path.join(folder, 'package.json'))('typescript');

const resources = JSON.parse(readFileSync(0, 'utf8'));
const problems = resources.map(() => []);
const known = [];

for (const [index, resource] of resources.entries()) {
  const { apiVersion, kind } = resource;
  const module = path.join(models, apiVersion, `${kind}.js`);
  let model;
  try {
    model = (await import(pathToFileURL(module)))[kind];
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    problems[index].push(`there is no ${kind} in ${apiVersion}`);
    continue;
  }
  known.push(index);
  try {
    new model(resource).validate();
  } catch (error) {
    problems[index].push(...(error.errors ?? [error]).map((each) => `${each.instancePath ?? ''} ${each.message}`));
  }
}

// Where a type is one of several, TypeScript lets names of none of them pass: so each has to be one of the kind's at all.
const FREE = ['add', 'headers', 'labels', 'matchLabels', 'set', 'withoutHeaders'];
function* unknown(value, names, isFree = false) {
  if (Array.isArray(value)) {
    for (const each of value) yield* unknown(each, names);
  } else if (value !== null && typeof value === 'object') {
    for (const [name, inner] of Object.entries(value)) {
      if (!isFree && !names.has(name)) yield `there is no field ${name}`;
      // What Envoy gets is Envoy's to check.
      if (name !== 'value') yield* unknown(inner, names, FREE.includes(name));
    }
  }
}
for (const index of known) {
  const { apiVersion, kind, spec } = resources[index];
  const types = readFileSync(path.join(models, apiVersion, `${kind}.d.ts`), 'utf8');
  const names = new Set([...types.matchAll(/^ *"?(\w+)"?\??:/gm)].map((match) => match[1]));
  problems[index].push(...unknown(spec, names));
}

// Each resource is a file that says what it is.
const file = (index) => path.join(folder, `resource-${index}.ts`);
const sources = new Map(
  known.map((index) => {
    const { apiVersion, kind } = resources[index];
    const from = `@kubernetes-models/istio/${apiVersion}/${kind}`;
    const text = `import type { I${kind} } from '${from}';\nexport const it: I${kind} = ${JSON.stringify(resources[index], null, 1)};\n`;
    return [file(index), text];
  }),
);
const options = {
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  noEmit: true,
  skipLibCheck: true,
  strict: true,
  target: ts.ScriptTarget.ES2022,
  types: [],
};
const host = ts.createCompilerHost(options);
const { fileExists, readFile, getSourceFile } = host;
host.fileExists = (name) => sources.has(name) || fileExists(name);
host.readFile = (name) => sources.get(name) ?? readFile(name);
host.getSourceFile = (name, target, ...rest) =>
  sources.has(name)
    ? ts.createSourceFile(name, sources.get(name), target)
    : getSourceFile(name, target, ...rest);

const program = ts.createProgram([...sources.keys()], options, host);
for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
  const index = known.find((each) => file(each) === diagnostic.file?.fileName);
  const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, ' ');
  if (index === undefined) throw new Error(text);
  problems[index].push(text);
}
process.stdout.write(JSON.stringify(problems));
