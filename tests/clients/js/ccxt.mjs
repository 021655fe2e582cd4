import ccxt from 'ccxt';
import { base, converse, FROM, HOUR, key, pages, recvWindow, secret } from './conversation.mjs';

const made = (signedWith) =>
  new ccxt.bybit({
    apiKey: key,
    secret: signedWith,
    enableRateLimit: false,
    options: { recvWindow },
    has: { fetchCurrencies: false }, // the fake exchange has no page of coins
    urls: { api: { public: base, private: base, spot: base, futures: base, v2: base } },
  });

const exchange = made(secret);
const swap = 'BTC/USDT:USDT';
const raw = { category: 'linear', symbol: 'BTCUSDT' };
const order = (link) => exchange.createOrder(swap, 'limit', 'buy', 0.01, 1000.5, { clientOrderId: link });

await converse({
  'markets': async () => Object.keys(await exchange.loadMarkets()).length,
  'server time': () => exchange.fetchTime(),
  'newest candles': () => exchange.fetchOHLCV(swap, '1m'),
  'newest candles, limited': () => exchange.fetchOHLCV(swap, '1h', undefined, 3),
  'candles from a start': () => exchange.fetchOHLCV(swap, '5m', FROM, 7),
  'candles to an end': () => exchange.fetchOHLCV(swap, '1d', undefined, 7, { until: FROM }),
  'candles of a closed range': () => exchange.fetchOHLCV(swap, '15m', FROM, undefined, { until: FROM + 6 * HOUR }),
  'candles asked for again': async () => {
    const answers = [];
    for (let time = 0; time < 3; time += 1) {
      answers.push(await exchange.fetchOHLCV(swap, '30m', FROM, 16, { until: FROM + 8 * HOUR }));
    }
    return answers;
  },
  'one ticker': () => exchange.fetchTicker(swap),
  'all tickers': () => exchange.fetchTickers(),
  'order book': () => exchange.fetchOrderBook(swap, 50),
  'open interest, page by page': () =>
    pages((q) => exchange.publicGetV5MarketOpenInterest(q), { ...raw, intervalTime: '1h', limit: 3 }, 4),
  "an order's life": async () => {
    const created = await order('life');
    return [
      created,
      await exchange.fetchOpenOrders(swap),
      await exchange.cancelOrder(created.id, swap),
      await exchange.fetchCanceledOrders(swap),
    ];
  },
  'orders, page by page': async () => {
    for (let number = 0; number < 5; number += 1) await order(`page-${number}`);
    const found = await pages((q) => exchange.privateGetV5OrderRealtime(q), { ...raw, limit: 2 }, 9);
    return [...found, await exchange.cancelAllOrders(swap)];
  },
  'a batch': () =>
    exchange.createOrders(
      [1000, 1001, 1002].map((price) => ({
        symbol: swap, type: 'limit', side: 'buy', amount: 0.01, price, params: { clientOrderId: `batch-${price}` },
      })),
    ),
  'balance': () => exchange.fetchBalance(),
  'an unknown symbol': () => exchange.publicGetV5MarketKline({ category: 'linear', symbol: 'NOSUCH', interval: '1' }),
  'an unknown order': () => exchange.cancelOrder('11111111-1111-4111-a111-111111111111', swap),
  'a wrong secret': () => made('wrong').privateGetV5AccountInfo(),
});
