// Runs named operations one after the other and prints how each of them ended, as one JSON object.

export const base = process.env.BASE_URL;
export const key = process.env.API_KEY;
export const secret = process.env.API_SECRET;
export const recvWindow = Number(process.env.RECV_WINDOW);

export const HOUR = 3_600_000;
export const FROM = 1_760_000_400_000;

function told(error) {
  if (error instanceof Error) {
    return { class: error.constructor.name, message: error.message };
  }
  // bybit-api throws a plain object. Its requestOptions name the base URL, its headers the moment.
  return { code: error.code, message: error.message, body: error.body };
}

export async function converse(operations) {
  const ends = {};
  for (const [name, operation] of Object.entries(operations)) {
    try {
      ends[name] = { value: (await operation()) ?? null };
    } catch (error) {
      ends[name] = { error: told(error) };
    }
  }
  process.stdout.write(JSON.stringify(ends));
}

export async function pages(read, question, most) {
  const found = [];
  let cursor = undefined;
  while (found.length < most) {
    const page = await read({ ...question, ...(cursor ? { cursor } : {}) });
    found.push(page);
    cursor = page.result.nextPageCursor;
    if (!cursor) break;
  }
  return found;
}
