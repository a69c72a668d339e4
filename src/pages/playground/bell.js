// The bell's sound: two partials, struck again until it is stopped. It is synthesised, so no sound file has to load.

const STRIKE_INTERVAL_MS = 1_600;
/** [Hz, loudness, seconds] of each partial; the second is inharmonic, which sounds metallic. */
const PARTIALS = [
  [1046.5, 0.5, 1.3],
  [2637, 0.18, 0.8],
];

let audio = null;
let timer = 0;

function strike() {
  const now = audio.currentTime;
  for (const [frequency, loudness, seconds] of PARTIALS) {
    const [tone, volume] = [audio.createOscillator(), audio.createGain()];
    tone.frequency.value = frequency;
    volume.gain.setValueAtTime(loudness, now);
    volume.gain.exponentialRampToValueAtTime(0.001, now + seconds);
    tone.connect(volume).connect(audio.destination);
    tone.start(now);
    tone.stop(now + seconds);
  }
}

/** Whether the browser lets this page play sound: only after the user has touched it. */
export async function canPlaySound() {
  if (!audio && navigator.userActivation?.hasBeenActive === false) {
    return false;
  }
  audio ??= new AudioContext();
  // `resume` waits for a touch that may never come.
  await Promise.race([audio.resume(), new Promise((done) => setTimeout(done, 300))]);
  return audio.state === "running";
}

/** Rings until `stopRinging`. */
export function startRinging() {
  if (!timer && audio?.state === "running") {
    strike();
    timer = setInterval(strike, STRIKE_INTERVAL_MS);
  }
}

export function stopRinging() {
  clearInterval(timer);
  timer = 0;
}

export const isRinging = () => timer !== 0;
