// ccxt for JavaScript: every kind of API gets the gateway's address.
import ccxt from 'ccxt';

const base = process.env.GATEWAY_URL ?? 'http://127.0.0.1:8080';
const exchange = new ccxt.bybit({
  // apiKey: ..., secret: ... as ever
  urls: { api: { public: base, private: base, spot: base, futures: base, v2: base } },
});

const [row] = await exchange.fetchOHLCV('BTC/USDT:USDT', '1h', undefined, 1);
console.log(row);
