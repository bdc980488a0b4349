// EventSources of the npm package, as many as there are URLs. Each prints the numbers that it was sent, once it is told the end.
import { EventSource } from 'eventsource';

// The package's own timer keeps no process alive.
const alive = setInterval(() => {}, 1000);
await Promise.all(process.argv.slice(2).map(url => new Promise(done => {
    const source = new EventSource(url);
    const got = [];
    source.onmessage = ({ data }) => got.push(Number(data));
    source.addEventListener('gap', ({ data }) => got.push(data));
    source.addEventListener('end', () => {
        source.close();
        console.log(JSON.stringify(got));
        done();
    });
})));
clearInterval(alive);
