// ccxt.pro for JavaScript: as ccxt, and the addresses of the streams below `ws`.
import ccxt from 'ccxt';

const base = process.env.GATEWAY_URL ?? 'http://127.0.0.1:8080';
const stream = `${base.replace('http', 'ws')}/v5`;
const kinds = ['spot', 'linear', 'inverse', 'option'];

const exchange = new ccxt.pro.bybit({
  // apiKey: ..., secret: ... as ever
  urls: {
    api: {
      public: base, private: base, spot: base, futures: base, v2: base,
      ws: {
        public: Object.fromEntries(kinds.map((kind) => [kind, `${stream}/public/${kind}`])),
        private: {
          spot: { unified: `${stream}/private` }, contract: `${stream}/private`, trade: `${stream}/trade`,
        },
      },
    },
  },
});

await exchange.loadHttpProxyAgent(); // ccxt wants it for ws:// without TLS
const [candle] = await exchange.watchOHLCV('BTC/USDT:USDT', '1h');
console.log(candle.slice(0, 2));
await exchange.close();
