// Drives the packaged web page in a real browser: node drive.mjs PAGE_URL BROWSER FRAME.png LARGER.png SIXTEEN_BIT.png PICTURES
// Prints one JSON object: what the page answered, and every address that it asked for.
import puppeteer from "puppeteer-core";

const [url, executablePath, frame, larger, deep, pictures] = process.argv.slice(2);
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage();
page.setDefaultTimeout(120000);
const asked = [], complaints = [];
page.on("request", (request) => asked.push(request.url()));
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(error.message));
const status = () => page.$eval("#status", (one) => one.textContent);
const until = (start) => page.waitForFunction((text) => document.querySelector("#status").textContent.startsWith(text), {}, start);
const give = async (path) => (await page.$("#file")).uploadFile(path);

await page.setViewport({ width: 1280, height: 900 });
await page.goto(url);
await until("Ready");
const answer = { check: await page.evaluate(() => globalThis.breastseg.check()) };
await page.setOfflineMode(true);
await give(frame);
await until("Done");
answer.cells = await page.$eval("#cells", (one) => Number(one.textContent));
answer.brightest = await page.$eval("#frame", (one) => {
  const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
  return data.reduce((most, value, i) => (i % 4 === 0 ? Math.max(most, value) : most), 0); // red, which the outline has none of
});
answer.saves = await page.$eval("#save", (one) => one.href);
await page.screenshot({ path: `${pictures}/laptop.png`, fullPage: true });
await give(larger);
await page.waitForFunction(() => /^Done: .*nothing is resized/.test(document.querySelector("#status").textContent));
answer.larger = await status();
await page.setViewport({ width: 390, height: 844 });
answer.overflow = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
await page.screenshot({ path: `${pictures}/phone.png`, fullPage: true });
await give(deep);
await page.waitForFunction(() => document.querySelector("#status").className === "error");
answer.deep = await status();
answer.asked = asked;
answer.complaints = complaints;
console.log(JSON.stringify(answer));
await browser.close();
