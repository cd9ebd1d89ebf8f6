/** Who may import whom: the rules of .dependency-cruiser.json, and the proof that they were applied to every file. */
import { globSync, readFileSync } from "node:fs";
import type { Statement, VariableDeclaration } from "@swc/core";
import { Visitor } from "@swc/core/Visitor.js";
import { cruise, type ICruiseOptions, type ICruiseResult, type IForbiddenRuleType } from "dependency-cruiser";

interface Rules {
  readonly forbidden: IForbiddenRuleType[];
  readonly options: ICruiseOptions;
}

const ROOTS = ["src", "lab", "test", "bench", "tools"];

/** Checks the checkout in the working directory; returns a line for each import that breaks a rule. */
export async function checkLayers(): Promise<string[]> {
  // Without a compiler it can use, the cruiser reads nothing and reports success: compare with what lies on the disk.
  const files = globSync(ROOTS.map((root) => `${root}/**/*.ts`)).filter((file) => !file.startsWith("src/gen/"));
  const { forbidden, options } = JSON.parse(readFileSync(".dependency-cruiser.json", "utf8")) as Rules; // the cruiser validates it
  const roots = ROOTS.filter((root) => files.some((file) => file.startsWith(`${root}/`)));
  teachUsing();
  const { output } = await cruise(roots, { ...options, validate: true, ruleSet: { forbidden } });
  const { modules, summary } = output as ICruiseResult; // a string only where an output type is asked for

  const read = new Set(modules.map((module) => module.source));
  return [
    ...files.filter((file) => !read.has(file)).map((file) => `${file}: not read by dependency-cruiser`),
    ...summary.violations.map(({ from, to, rule }) => `${from} -> ${to}: ${rule.name}`),
  ];
}

/** What swc's parser makes of `using`; its types and its visitor, by which the cruiser walks, do not know it yet. */
interface UsingDeclaration {
  readonly type: "UsingDeclaration";
  readonly decls: VariableDeclaration["declarations"];
}

/** Has the visitor walk a `using` as it walks a `const`. */
function teachUsing(): void {
  // oxlint-disable-next-line typescript/unbound-method -- it is called with its `this`
  const { visitStatement } = Visitor.prototype;
  Visitor.prototype.visitStatement = function visit(this: Visitor, statement: Statement | UsingDeclaration): Statement {
    if (statement.type !== "UsingDeclaration") return visitStatement.call(this, statement);
    for (const { init } of statement.decls) if (init !== undefined && init !== null) this.visitExpression(init);
    return statement as unknown as Statement; // the cruiser only looks
  };
}
